# The system calls that the native loops make: poll(2), eventfd(2), and send(2) and recv(2) on doorbells.

from libc.stdint cimport uint64_t

from posix.time cimport timespec

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLHUP
        POLLERR
        POLLNVAL
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    int ppoll(pollfd *fds, unsigned long count, const timespec *timeout, const void *signals)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
        EFD_SEMAPHORE
    int eventfd(unsigned value, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t recv(int fd, void *into, size_t length_bytes, int flags)
    ssize_t send(int fd, const void *data, size_t length_bytes, int flags)
