"""What the pump asks of sources and of descriptors: a few calls, without the GIL, for batches of packets.

Each class here is a contract, and whoever fulfils it subclasses it. The calls go through Cython's method tables, one
indirect call for a batch. So no module is compiled into another, and a new source is a class with a next().
"""

cdef class NativeSource:
    """Where packets come from, in batches."""

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        """The next batch, valid until the next call.

        Returns:
            How many packets it has; or SOURCE_ENDED; or SOURCE_FAILED, and then check() raises why. A source that can
            run dry waits here, and returns SOURCE_WOKEN after wake() or a signal.
            SOURCE_INTERFACES says that packets of interfaces follow that were not known before: the source's owner can
            tell by now which. SOURCE_BLOCK gives a block that is no packet, alone in its batch: its interface_id is
            ZBUF_NO_PACKET, and data and caplen are the whole block, little-endian, whatever else the packet says.
        """
        return SOURCE_ENDED

    cdef void wake(self) noexcept nogil:
        """End a wait in next(), the one under way or the next one; from any thread.

        A source that never waits need not do anything.
        """

    def check(self):
        """Raise the error of a source that failed; a source that can't fail need not do anything."""


cdef class PacketSink:
    """What takes packets: a descriptor."""

    cdef uint32_t take(self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil:
        """Take up to `count` packets.

        Returns:
            How many it took: all of them; or, where `lossless`, those before the first packet that no buffer has room
            for.
        """
        return count

    cdef bint take_block(self, const zbuf_packet *block, bint lossless) noexcept nogil:
        """Take a block that is no packet, between the packets that came before it and those after it.

        Returns:
            Whether it is done with: it has the block or leaves it out; False, only where `lossless`, until there is
            room.
        """
        return True

    cdef bint has_room(self) noexcept nogil:
        """Whether take() would go on: readers have given a buffer back since it stopped."""
        return True


cdef class Rewriter:
    """What changes packets on every pass after the first."""

    cdef void rewrite(self, uint8_t *data, uint32_t caplen, uint64_t number) noexcept nogil:
        """Change a packet for pass `number`, 1 or more, in place: the bytes are the caller's own copy."""
