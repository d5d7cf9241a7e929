"""Whose turn it is with the two buffers: what one reader has acknowledged, and what its views still hold.

A buffer is the reader's from the moment that its kernel_gen differs from what the reader has acknowledged. It goes back
to the producer by one store into the reader's ack page, and never while a view of it (a memoryview, a NumPy array)
lives. A forked child acknowledges into memory of its own, because the ack page belongs to its parent.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint8_t

from zbuf.shared.memory.abi cimport zbuf_ack, zbuf_acknowledge, zbuf_header, zbuf_pass, zbuf_segment

from zbuf.shared.memory.layout import HEADER_BYTES


cdef class Turn:
    """One reader's side of two buffers: their headers, its ack page, and the views that are alive.

    Args:
        segment: a read-only mapping of the segment.
        layout: what read_layout() said of it.
        ack_page: a writable mapping of this reader's ack page.
        interfaces: those that packets may come from; None where they are not known.
    """

    def __cinit__(self, segment, layout, ack_page, *, interfaces=None, **_others):
        PyObject_GetBuffer(segment, &self._held.segment, PyBUF_SIMPLE)
        try:
            PyObject_GetBuffer(ack_page, &self._held.ack_page, PyBUF_WRITABLE)
        except BaseException:
            PyBuffer_Release(&self._held.segment)
            raise
        self._mapped = True
        self._segment = <const zbuf_segment *>self._held.segment.buf
        self._ack = <zbuf_ack *>self._held.ack_page.buf
        for which in range(2):
            self._headers[which] = <const zbuf_header *>(
                <const uint8_t *>self._held.segment.buf + <size_t>layout.buffer_offsets[which])
            self._user_gen[which] = self._ack.user_gen[which]
        self._capacity = <uint32_t>(layout.buffer_bytes - HEADER_BYTES)
        self._limits.snaplen = layout.snaplen
        self._limits.interfaces = 0xFFFFFFFF if interfaces is None else len(interfaces)

    def __reduce__(self):
        raise TypeError("a reader can't be copied or pickled: connect() in each process")

    def __dealloc__(self):
        if self._mapped:
            PyBuffer_Release(&self._held.segment)
            PyBuffer_Release(&self._held.ack_page)

    cdef void _give_back(self, int which, uint32_t generation) noexcept:
        self._user_gen[which] = generation
        zbuf_acknowledge(self._ack, which, generation)

    cdef void _release(self, int which, uint32_t generation, uint32_t views) noexcept:
        """The reader is done with a buffer, of which so many views live: it goes back when the last of them dies.

        The producer hears that only views hold it. A loop's variable lets go of one when the next buffer comes, and
        that must not wait for the variable.
        """
        self._views[which] = views
        if views == 0:
            self._give_back(which, generation)
        else:
            zbuf_pass(self._ack, which, generation)

    cdef void _view_gone(self, int which, uint32_t generation, uint32_t views) noexcept:
        """A view of a released buffer died, and so many are left."""
        self._release(which, generation, views)
        if views == 0:
            self._views_gone()

    def _views_gone(self):
        """Called when the last view of a released buffer is gone; subclasses override it."""

    def _disown(self):
        """In a forked child: whatever happens to buffers and views here, the parent's stay the parent's."""
        self._ack = &self._unheard
        self._disowned = True
