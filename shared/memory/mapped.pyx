"""The pages of a large mapping, put in and taken out while other threads run.

mmap.mmap() with MAP_POPULATE, and mmap.close(), keep the interpreter to themselves for as long as the kernel works, and
that is most of a second for a gigabyte.  Here it works on pieces: nobody else who maps something waits longer than for
one of them.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MADV_DONTNEED
    int madvise(void *at, size_t length, int advice)

cdef enum:
    PIECE_BYTES = 16 << 20
    PAGE_BYTES = 4096
    MADV_POPULATE_WRITE = 23        # Linux 5.14; older libcs do not define it


def put_in(memory):
    """Have a writable shared mapping's pages in place, so that nobody waits for one at its first use.

    The mapping is ours alone until then, and what is in it stays.
    """
    cdef Py_buffer view
    cdef Py_ssize_t at = 0
    PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
    with nogil:
        while at < view.len:
            populate(<uint8_t *>view.buf + at, min(<Py_ssize_t>PIECE_BYTES, view.len - at))
            at += PIECE_BYTES
    PyBuffer_Release(&view)


cdef void populate(uint8_t *at, Py_ssize_t length) noexcept nogil:
    """A kernel that does not know how to is made to, by a write to each page."""
    cdef volatile uint8_t *page
    cdef Py_ssize_t offset = 0
    if madvise(at, length, MADV_POPULATE_WRITE) == 0:
        return
    while offset < length:
        page = at + offset
        page[0] = page[0]
        offset += PAGE_BYTES


def take_out(memory):
    """Take the pages out of a shared mapping, which keeps its bytes: little is left to do for whoever unmaps it."""
    cdef Py_buffer view
    cdef Py_ssize_t at = 0
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    with nogil:
        while at < view.len:
            madvise(<uint8_t *>view.buf + at, min(<Py_ssize_t>PIECE_BYTES, view.len - at), MADV_DONTNEED)
            at += PIECE_BYTES
    PyBuffer_Release(&view)
