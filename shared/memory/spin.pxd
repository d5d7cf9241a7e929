# For loops that wait for another process's store: a pause between looks, a clock, and a flag that ends them.

from libc.stdint cimport int64_t

from posix.time cimport CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

cdef extern from "zbuf/shared/memory/spin.h" nogil:
    void spin_pause()
    void raise_flag(int *flag)
    void lower_flag(int *flag)
    bint is_raised(const int *flag)

cdef enum:
    LOOKS_PER_CLOCK = 64


cdef inline int64_t now_ns() noexcept nogil:
    """CLOCK_MONOTONIC in nanoseconds; read without a system call (vdso(7))."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


cdef inline int64_t thread_ns() noexcept nogil:
    """Processor time of this thread in nanoseconds, which leaves out what others did meanwhile; a system call."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
