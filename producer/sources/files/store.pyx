"""Packets in memory, to be pumped any number of times."""

from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

cimport cython

from zbuf.producer.ring.contract cimport NativeSource, Rewriter, SOURCE_WOKEN
from zbuf.producer.sources.files.sizes cimport note_size, size_counts
from zbuf.producer.sources.files.times cimport begin_next_pass, note_time, pass_times
from zbuf.shared.memory.abi cimport zbuf_packet

cdef enum:
    BATCH_PACKETS = 256

cdef size_t ARENA_BYTES = 16 << 20


@cython.final
cdef class PacketStore(NativeSource):
    """Packets in memory, to be pumped any number of times; a native source.

    On each pass their times go on where the one before ended, see times.pxd; rewind() brings the first ones back.
    """

    cdef zbuf_packet *_packets
    cdef size_t _count, _room
    cdef uint8_t **_arenas
    cdef size_t _arena_count, _arena_used
    cdef size_t _at
    cdef uint64_t _passes           # to be given, this one included
    cdef uint64_t _pass
    cdef pass_times _times
    cdef size_counts _sizes
    cdef uint64_t _shift_before     # that of the pass before, which packets from _at on still have
    cdef uint32_t _longest          # captured bytes of a packet
    cdef Rewriter _rewriter
    cdef zbuf_packet *_copies       # a batch that was rewritten
    cdef uint8_t *_copied
    cdef list _lasting              # what keeps packets in their place that were not copied
    cdef readonly uint64_t captured_bytes

    def __cinit__(self):
        self._lasting = []
        self._arena_used = ARENA_BYTES

    def __dealloc__(self):
        cdef size_t at
        for at in range(self._arena_count):
            free(self._arenas[at])
        free(self._arenas)
        free(self._packets)
        free(self._copies)
        free(self._copied)

    def __len__(self):
        return self._count

    @property
    def table_bytes(self):
        """Memory that it takes beside the packets' bytes."""
        return self._count * sizeof(zbuf_packet)

    @property
    def sizes(self):
        """Packets of each class of sizes.pxd, and the bytes of all on the wire."""
        return list(self._sizes.classes), self._sizes.wire_bytes

    def load(self, NativeSource source not None, size_t packets):
        """Read `packets` more, or somewhat more than that, from a native source; returns False at its end.

        Their bytes are copied, unless the source has something `lasting` which keeps them in their place.
        """
        cdef const zbuf_packet *batch
        cdef size_t wanted = self._count + packets
        cdef int count = 1
        cdef bint room = True
        lasting = getattr(source, "lasting", None)
        cdef bint copied = lasting is None
        if not copied and lasting not in self._lasting:
            self._lasting.append(lasting)
        with nogil:
            while (count > 0 or count == SOURCE_WOKEN) and room and self._count < wanted:
                count = source.next(&batch)
                room = self.add_all(batch, count, copied)
        if not room:
            raise MemoryError
        if count < 0 and count != SOURCE_WOKEN:
            source.check()
        return count > 0 or count == SOURCE_WOKEN

    def rewind(self, uint64_t passes, Rewriter rewriter=None):
        """Have the source begin anew, and give everything `passes` times.

        Args:
            passes: how often.
            rewriter: who changes what is given after the first pass.
        """
        cdef size_t at
        for at in range(self._count):
            if self._packets[at].time_ns:
                self._packets[at].time_ns -= self._times.shift if at < self._at else self._shift_before
        self._times.shift = self._shift_before = 0
        self._at = self._pass = 0
        self._passes = passes
        self._rewriter = rewriter
        if rewriter is not None:
            self._prepare_copies()

    cdef _prepare_copies(self):
        """Room for a batch of the largest packets; the kernel gives memory for what is touched of it."""
        free(self._copies)
        free(self._copied)
        self._copies = <zbuf_packet *>malloc(BATCH_PACKETS * sizeof(zbuf_packet))
        self._copied = <uint8_t *>malloc(<size_t>BATCH_PACKETS * (self._longest + 8))
        if self._copies == NULL or self._copied == NULL:
            raise MemoryError

    cdef bint add_all(self, const zbuf_packet *packets, int count, bint copied) noexcept nogil:
        cdef int at
        for at in range(count):
            if not self.add(&packets[at], copied):
                return False
        return True

    cdef bint add(self, const zbuf_packet *packet, bint copied) noexcept nogil:
        cdef uint8_t *place
        if self._count == self._room and not self.grow():
            return False
        self._packets[self._count] = packet[0]
        if copied:
            place = self.allocate(packet.caplen)
            if place == NULL:
                return False
            memcpy(place, packet.data, packet.caplen)
            self._packets[self._count].data = place
        self._count += 1
        self.captured_bytes += packet.caplen
        self._longest = max(self._longest, packet.caplen)
        note_time(&self._times, packet.time_ns)
        note_size(&self._sizes, packet.wirelen)
        return True

    cdef bint grow(self) noexcept nogil:
        cdef size_t room = max(<size_t>1024, 2 * self._room)
        cdef zbuf_packet *grown = <zbuf_packet *>realloc(self._packets, room * sizeof(zbuf_packet))
        if grown == NULL:
            return False
        self._packets = grown
        self._room = room
        return True

    cdef uint8_t *allocate(self, size_t size) noexcept nogil:
        cdef uint8_t **grown
        cdef uint8_t *place
        if self._arena_count == 0 or self._arena_used + size > ARENA_BYTES:
            grown = <uint8_t **>realloc(self._arenas, (self._arena_count + 1) * sizeof(uint8_t *))
            if grown == NULL:
                return NULL
            self._arenas = grown
            grown[self._arena_count] = <uint8_t *>malloc(ARENA_BYTES)
            if grown[self._arena_count] == NULL:
                return NULL
            self._arena_count += 1
            self._arena_used = 0
        place = self._arenas[self._arena_count - 1] + self._arena_used
        self._arena_used += (size + 15) & ~<size_t>15
        return place

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef size_t count
        if self._at == self._count:
            if self._passes <= 1 or self._count == 0:
                return 0
            self.wrap()
        elif self._passes == 0:
            return 0
        count = min(<size_t>BATCH_PACKETS, self._count - self._at)
        batch[0] = self._packets + self._at
        self.shift(count)
        if self._rewriter is not None and self._pass:
            self.rewrite(batch, count)
        self._at += count
        return <int>count

    cdef void wrap(self) noexcept nogil:
        self._passes -= 1
        self._pass += 1
        self._at = 0
        self._shift_before = self._times.shift
        begin_next_pass(&self._times)

    cdef void shift(self, size_t count) noexcept nogil:
        """Move the times of the next packets on, in place: the pump is about to read them anyway."""
        cdef uint64_t step = self._times.shift - self._shift_before
        cdef size_t at
        if step:
            for at in range(self._at, self._at + count):
                self._packets[at].time_ns += step if self._packets[at].time_ns else 0

    cdef void rewrite(self, const zbuf_packet **batch, size_t count) noexcept nogil:
        cdef uint8_t *place = self._copied
        cdef zbuf_packet *copy
        cdef size_t at
        for at in range(count):
            copy = &self._copies[at]
            copy[0] = batch[0][at]
            memcpy(place, copy.data, copy.caplen)
            self._rewriter.rewrite(place, copy.caplen, self._pass)
            copy.data = place
            place += (copy.caplen + 7) & ~<size_t>7
        batch[0] = self._copies
