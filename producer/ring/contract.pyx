"""What sources, the pump and descriptors are to each other: batches of packets, passed by three calls without the GIL.

Each class here is subclassed by those who fulfil it; the calls go through Cython's method tables, one indirect call for a
batch.  So no module is compiled into another, and a new source is a class with a next().
"""

cdef class NativeSource:
    """Where packets come from, in batches."""

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        """The next batch, valid until the next call.

        Returns:
            How many packets it has; or SOURCE_ENDED, SOURCE_FAILED (then check() raises why), or SOURCE_WOKEN: a source
            that can run dry waits here, and says so after wake() or a signal.
        """
        return SOURCE_ENDED

    cdef void wake(self) noexcept nogil:
        """End a wait in next(), the one under way or the next one; from any thread.  Nothing, for one that never waits."""

    def check(self):
        """Raise the error of a source that failed; nothing, for one that can't fail."""


cdef class PacketSink:
    """Who takes packets."""

    cdef uint32_t take(self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil:
        """Take up to `count` packets.

        Returns:
            How many were taken. It is all of them, unless `lossless`, which stops before a packet that no buffer has
            room for.
        """
        return count

    cdef bint has_room(self) noexcept nogil:
        """Whether a reader has given back a buffer since."""
        return True


cdef class Rewriter:
    """Who changes packets on every pass but the first."""

    cdef void rewrite(self, uint8_t *data, uint32_t caplen, uint64_t number) noexcept nogil:
        """Change a packet for pass `number`, which is 1 or more; the bytes are the caller's own copy."""
