"""One listener on a capture: two zbufs, the readers that share them, a filter, counters.

This is bpf(4)'s zero-copy mode (FreeBSD, sys/net/bpf_zerocopy.c) with catchpacket()'s rules around it (sys/net/bpf.c).
A zbuf is in one of three slots, which are private to the producer:

    store   being filled.  There always is one.
    hold    filled, assigned to the readers, waiting until all of them have acknowledged it.
    free    neither; there is one exactly when hold is empty.

What a reader could have written is read in two places only, can_free_buffer() and wake(), and is taken for a yes or no.

Where a seed function went:

    append_bytes, append_mbuf        append_bytes, append_fragments
    buffull, bufheld, buf_reclaimed  buffer_full, buffer_held, buffer_reclaimed
    canfreebuf, canwritebuf          can_free_buffer, can_write_buffer
    ROTATE_BUFFERS, rotzbuf          rotate_buffers, rotate
    setzbuf, zbuf_setup, getzmax     set_buffers, setup_buffer, max_buffer_bytes
    free, reset_d, setf/setfnr       close, flush, set_filter

What is mended: rotate(), tick() and immediate mode reclaim an acknowledged hold before they look at it, where the seed
waits for the next packet to do so and strands the tail of the traffic until then.

Nothing here locks.  Whoever owns the capture (see zbuf.producer.serving.capture) is the only one to call.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cimport cython

from zbuf.producer.ring.contract cimport PacketSink
from zbuf.shared.memory.abi cimport (
    ZBUF_MAX_BYTES,
    ZBUF_CLOSED,
    ZBUF_INBOUND,
    ZBUF_MAX_CAPLEN,
    ZBUF_OUTBOUND,
    ZBUF_PAGE_BYTES,
    zbuf_ack,
    zbuf_acknowledge,
    zbuf_acknowledged,
    zbuf_assign,
    zbuf_block_begin,
    zbuf_block_bytes,
    zbuf_fence_sleepers,
    zbuf_header,
    zbuf_ledger,
    zbuf_packet,
    zbuf_pad,
    zbuf_segment,
    zbuf_set_state,
    zbuf_sleeper,
    zbuf_store,
)

from zbuf.shared.errors import FilterError, SegmentError, ValueRefused
from zbuf.shared.memory.layout import check_buffer_bytes

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t length, int flags)

cdef extern from "pcap/pcap.h" nogil:
    cdef struct bpf_insn:
        pass
    int bpf_validate(const bpf_insn *program, int instructions)

cdef extern from "zbuf/producer/ring/packet_filter.h" nogil:
    cdef struct packet_filter:
        bpf_insn *program
    bint can_answer_loads(const bpf_insn *program, uint32_t instructions)
    bint packet_filter_set(packet_filter *filter, bpf_insn *program, uint32_t instructions)
    void packet_filter_free(packet_filter *filter)
    uint32_t packet_filter_run(const packet_filter *filter, const zbuf_packet *packet)

cdef extern from "zbuf/producer/ring/copy.h" nogil:
    void zbuf_copy(uint8_t *to, const uint8_t *source, uint32_t length_bytes)

cdef enum:
    NONE = -1  # an empty slot

DIRECTIONS = {"inout": 0, "in": ZBUF_INBOUND, "out": ZBUF_OUTBOUND}

# bpf(4)'s instructions, by class: ld, ldx, st and stx, alu, jmp, ret, misc.
INSTRUCTIONS = frozenset(
    [0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80]
    + [0x01, 0x61, 0x81, 0xB1]
    + [0x02, 0x03]
    + [operation | operand | 0x04 for operation in range(0x00, 0xB0, 0x10) for operand in (0, 8)
       if operation | operand != 0x88]
    + [0x05]
    + [operation | operand | 0x05 for operation in range(0x10, 0x50, 0x10) for operand in (0, 8)]
    + [0x06, 0x16]
    + [0x07, 0x87]
)

# A zbuf as its owner sees it.  The header's generation and length are written from here and never read back.
cdef struct zbuf:
    zbuf_header *header
    uint8_t *blocks
    uint32_t gen             # kernel_gen
    bint assigned            # since its last assignment it was not reclaimed: not ours to write
    uint32_t length
    uint32_t packets
    uint64_t sequence
    uint64_t first_ns
    uint64_t last_ns
    uint64_t dropped_before
    uint32_t acknowledged    # readers that gave it back since its last assignment

cdef struct held_view:  # in a struct of its own, or the garbage collector would clear it before it is released
    Py_buffer view

cdef struct zbuf_reader:
    uint32_t number
    const zbuf_ack *ack
    int doorbell
    bint owes[2]             # it was assigned that zbuf and has not given it back
    uint64_t delivered
    uint64_t stalls          # times that both buffers were full and this reader had not given back the older one
    bint stalling
    uint64_t dropped_when    # the ledger's count when that began
    uint64_t dropped         # until it gave it back, of all the times
    Py_buffer view


@cython.final
cdef class Descriptor(PacketSink):
    """Two zbufs, their readers, a filter and a ledger.

    Args:
        snaplen: bytes kept of each packet, 1 to 262,144.
        immediate: assign each packet at once where a buffer is free (BIOCIMMEDIATE).
        timeout_ms: assign a store that has waited as long, though it is not full (BIOCSRTIMEOUT); 0 for never.
        direction: "in", "out" or "inout" (BIOCSDIRECTION); packets of no known direction always pass.
        interfaces: a bit for each interface whose packets it sees, from bit 0 on; None for all of them.
        guard: a filter program in front of its own, which set_filter() leaves alone: what its readers may see.

    Packets that it does not see, for any of the last three, are not counted either.

    It takes packets once set_buffers() has given it memory.
    """

    cdef zbuf zbufs[2]
    cdef int store, hold, free_
    cdef uint32_t capacity          # bytes of blocks that one zbuf holds
    cdef zbuf_segment *segment
    cdef held_view held             # of the memory
    cdef bint has_memory
    cdef bint was_set_up            # once in its life

    cdef zbuf_reader *readers
    cdef uint32_t reader_count

    cdef packet_filter filter
    cdef readonly uint32_t snaplen
    cdef readonly bint immediate
    cdef readonly uint64_t timeout_ns
    cdef uint32_t direction
    cdef bint restricted            # to some interfaces, or by a guard
    cdef uint64_t interfaces
    cdef packet_filter guard

    cdef zbuf_ledger counts         # all but `buffered`, which the zbufs tell
    cdef uint64_t lost              # dropped since the last packet that was appended
    cdef uint64_t next_sequence
    cdef uint64_t waiting_sequence  # the filling that tick() saw last, and when it first did
    cdef uint64_t waiting_since_ns
    cdef readonly uint64_t bells

    def __cinit__(self, *, snaplen=ZBUF_MAX_CAPLEN, immediate=False, timeout_ms=0, direction="inout", interfaces=None,
                  bytes guard not None=b""):
        self.store = self.hold = self.free_ = NONE
        self.waiting_sequence = <uint64_t>-1
        if not 1 <= snaplen <= ZBUF_MAX_CAPLEN:
            raise ValueRefused(f"snaplen {snaplen}: it must be from 1 to {ZBUF_MAX_CAPLEN}")
        if timeout_ms < 0:
            raise ValueRefused(f"read timeout {timeout_ms} ms: it can't be negative")
        if direction not in DIRECTIONS:
            raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
        self.snaplen = snaplen
        self.immediate = immediate
        self.timeout_ns = timeout_ms * 1_000_000
        self.direction = DIRECTIONS[direction]
        self.restricted = interfaces is not None or guard != b""
        self.interfaces = <uint64_t>-1 if interfaces is None else interfaces
        set_program(&self.guard, guard)

    def __dealloc__(self):
        self.release()
        free(self.readers)
        packet_filter_free(&self.filter)
        packet_filter_free(&self.guard)

    # ---- set-up -------------------------------------------------------------------------------------------

    @staticmethod
    def max_buffer_bytes():
        """The largest size of a buffer, header included (BIOCGETZMAX)."""
        return ZBUF_MAX_BYTES

    def set_buffers(self, memory, size_t offset_a, size_t offset_b, size_t buffer_bytes):
        """Install the two buffers, once (BIOCSETZBUF).

        Args:
            memory: a writable mapping with a struct zbuf_segment at its start; it is kept until close().
            offset_a, offset_b: where the buffers are in it, page-aligned.
            buffer_bytes: the size of each, header included; whole pages, at most max_buffer_bytes().

        Raises:
            ValueRefused: a size or an offset that breaks these rules.
            SegmentError: buffers are installed already, or lie outside the memory.
        """
        if self.was_set_up:
            raise SegmentError("buffers are installed already: they can be set once only")
        check_buffer_bytes(buffer_bytes)
        PyObject_GetBuffer(memory, &self.held.view, PyBUF_WRITABLE)
        self.has_memory = True
        try:
            if min(offset_a, offset_b) < ZBUF_PAGE_BYTES or abs(<int64_t>offset_a - <int64_t>offset_b) < buffer_bytes:
                raise ValueRefused(f"buffers at {offset_a} and {offset_b} overlap, or overlap the segment's header")
            self.setup_buffer(0, offset_a, buffer_bytes)
            self.setup_buffer(1, offset_b, buffer_bytes)
        except BaseException:
            self.release()
            raise
        self.was_set_up = True
        self.segment = <zbuf_segment *>self.held.view.buf
        self.capacity = <uint32_t>(buffer_bytes - sizeof(zbuf_header))
        self.store, self.free_ = 0, 1
        self.begin_store()

    cdef setup_buffer(self, int which, size_t offset, size_t buffer_bytes):
        cdef size_t address = <size_t>self.held.view.buf + offset
        if address % ZBUF_PAGE_BYTES:
            raise ValueRefused(f"buffer at {address:#x} is not aligned to a page of {ZBUF_PAGE_BYTES} bytes")
        if offset > <size_t>self.held.view.len or buffer_bytes > <size_t>self.held.view.len - offset:
            raise SegmentError(f"buffer of {buffer_bytes} bytes at {offset}: the memory has {self.held.view.len}")
        memset(&self.zbufs[which], 0, sizeof(zbuf))
        self.zbufs[which].header = <zbuf_header *>address
        self.zbufs[which].blocks = <uint8_t *>(address + sizeof(zbuf_header))
        memset(self.zbufs[which].header, 0, sizeof(zbuf_header))

    def close(self):
        """Give the readers up, mark the segment closed and let go of its memory; its ledger stays.

        What the readers were assigned they can go on reading.
        """
        if self.has_memory:
            self.reclaim()
            self.publish_ledger()
            zbuf_set_state(self.segment, ZBUF_CLOSED)
        self.release()

    cdef void release(self):
        while self.reader_count:
            self.reader_count -= 1
            PyBuffer_Release(&self.readers[self.reader_count].view)
        if self.has_memory:
            self.counts.buffered = self.buffered()
            self.has_memory = False
            PyBuffer_Release(&self.held.view)
        self.store = self.hold = self.free_ = NONE

    # ---- readers ------------------------------------------------------------------------------------------

    def add_reader(self, uint32_t number, ack_page, int doorbell):
        """Let one more reader in, from the next assignment on.

        Args:
            number: the caller's name for it, not in use here.
            ack_page: the producer's mapping of its struct zbuf_ack; it is kept until remove_reader().
            doorbell: the producer's end of make_doorbell(), rung while the reader sleeps.

        Returns:
            The sequence number of the first buffer that it will get.
        """
        cdef zbuf_reader reader
        cdef zbuf_reader *grown
        cdef int which
        memset(&reader, 0, sizeof(reader))
        self.need_memory()
        if self.find_reader(number) >= 0:
            raise ValueRefused(f"reader {number} is there already")
        grown = <zbuf_reader *>realloc(self.readers, (self.reader_count + 1) * sizeof(zbuf_reader))
        if grown == NULL:
            raise MemoryError
        self.readers = grown
        PyObject_GetBuffer(ack_page, &reader.view, PyBUF_WRITABLE)
        if reader.view.len < <Py_ssize_t>sizeof(zbuf_ack):
            PyBuffer_Release(&reader.view)
            raise SegmentError("ack page too short")
        reader.number = number
        reader.doorbell = doorbell
        reader.ack = <const zbuf_ack *>reader.view.buf
        for which in range(2):  # the reader's only page, and the only time that anybody else writes it
            zbuf_acknowledge(<zbuf_ack *>reader.view.buf, which, self.zbufs[which].gen)
        self.readers[self.reader_count] = reader
        self.reader_count += 1
        return self.next_sequence

    def remove_reader(self, uint32_t number):
        """Take a reader off: what it has not acknowledged waits for the others only; with none, it is abandoned.

        Returns:
            The packets that it acknowledged.
        """
        cdef int at = self.find_reader(number), which
        if at < 0:
            raise ValueRefused(f"reader {number} is not there")
        for which in range(2):
            self.look_at_reader(&self.readers[at], which)  # what it gave back, it gave back
        delivered = self.readers[at].delivered
        PyBuffer_Release(&self.readers[at].view)
        self.reader_count -= 1
        self.readers[at] = self.readers[self.reader_count]
        self.reclaim()
        return delivered

    def reader_counts(self, uint32_t number):
        """(packets acknowledged, buffers not given back) of one reader, as of now."""
        cdef int at = self.find_reader(number), which
        if at < 0:
            raise ValueRefused(f"reader {number} is not there")
        self.reclaim()
        for which in range(2):
            self.look_at_reader(&self.readers[at], which)
        return self.readers[at].delivered, self.readers[at].owes[0] + self.readers[at].owes[1]

    def reader_stalls(self, uint32_t number):
        """(times that no buffer was free since one reader had not given it back, packets dropped in those times)."""
        cdef int at = self.find_reader(number)
        if at < 0:
            raise ValueRefused(f"reader {number} is not there")
        cdef zbuf_reader *reader = &self.readers[at]
        return reader.stalls, reader.dropped + (self.counts.dropped - reader.dropped_when if reader.stalling else 0)

    def stalled_by(self):
        """Who keeps it from writing, while others have given back the buffer that it waits for.

        Returns:
            The number of that assignment, and a list of the readers that owe it: an empty one where a buffer is free,
            or where all readers owe it, so that none waits for another.
        """
        cdef uint32_t at
        self.need_memory()
        self.reclaim()
        if self.hold == NONE or self.can_write_buffer():
            return 0, []
        owing = [self.readers[at].number for at in range(self.reader_count) if self.readers[at].owes[self.hold]]
        return self.zbufs[self.hold].sequence, owing if len(owing) < <int>self.reader_count else []

    cdef int find_reader(self, uint32_t number) noexcept nogil:
        cdef uint32_t at
        for at in range(self.reader_count):
            if self.readers[at].number == number:
                return <int>at
        return -1

    # ---- appending (catchpacket) --------------------------------------------------------------------------

    def append_bytes(self, data, *, time_ns=0, wirelen=None, interface=0, direction="inout"):
        """Take one packet, or count why not.

        Args:
            data: its captured bytes.
            time_ns: nanoseconds since 1970.
            wirelen: its length on the wire in bytes; by default what was captured.
            interface: its interface's number in the prologue.
            direction: "in", "out", or "inout" where it is not known.
        """
        cdef zbuf_packet packet
        cdef Py_buffer view
        self.need_memory()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            packet_of(&packet, view.len, time_ns, wirelen, interface, direction)
            packet.data = <const uint8_t *>view.buf
            self.take(&packet, 1, False)
        finally:
            PyBuffer_Release(&view)

    def append_fragments(self, fragments, *, time_ns=0, wirelen=None, interface=0, direction="inout"):
        """append_bytes() of a packet that lies scattered in memory: a sequence of bytes-like objects.

        They are copied straight to their place; a filter, which wants its bytes in one piece, gets a copy.
        """
        cdef zbuf_packet packet
        cdef uint32_t kept_bytes, caplen
        cdef uint8_t *place = NULL
        self.need_memory()
        views = [memoryview(fragment).cast("B") for fragment in fragments]
        packet_of(&packet, sum(map(len, views)), time_ns, wirelen, interface, direction)
        joined = b"".join(views) if self.filter.program != NULL or self.guard.program != NULL else b""
        packet.data = joined
        if not self.sees(&packet):
            return
        caplen = packet.caplen
        kept_bytes = self.verdict(&packet)
        if kept_bytes:
            place = self.place_for(&packet, kept_bytes)
        self.count(kept_bytes, place != NULL, 0)
        if place != NULL:
            gather(place, packet.caplen, views)
            self.appended(&packet, caplen)

    cdef uint32_t take(self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil:
        """PacketSink's: the packet path."""
        if not self.has_memory:
            return count
        cdef zbuf_packet packet
        cdef uint8_t *place
        cdef uint32_t at, kept_bytes
        for at in range(count):
            packet = packets[at]
            if not self.sees(&packet):
                continue
            place = NULL
            kept_bytes = self.verdict(&packet)
            if kept_bytes:
                place = self.place_for(&packet, kept_bytes)
                if place == NULL and lossless:
                    return at
            self.count(kept_bytes, place != NULL, packets[at].dropped)
            if place != NULL:
                zbuf_copy(place, packet.data, packet.caplen)
                self.appended(&packet, packets[at].caplen)
        return count

    cdef bint has_room(self) noexcept nogil:
        """PacketSink's: worth trying again."""
        return not self.has_memory or self.hold == NONE or self.can_free_buffer(self.hold)

    cdef inline bint sees(self, const zbuf_packet *packet) noexcept nogil:
        if self.direction and packet.direction and self.direction != packet.direction:
            return False
        return not self.restricted or self.may_see(packet)

    cdef bint may_see(self, const zbuf_packet *packet) noexcept nogil:
        if packet.interface_id >= 64 or not self.interfaces >> packet.interface_id & 1:
            return False
        return packet_filter_run(&self.guard, packet) != 0

    cdef inline uint32_t verdict(self, const zbuf_packet *packet) noexcept nogil:
        """How many bytes of a packet the filter wants, 0 for refused."""
        return packet_filter_run(&self.filter, packet)

    cdef inline uint8_t *place_for(self, zbuf_packet *packet, uint32_t kept_bytes) noexcept nogil:
        """Begin the block of a packet, cut to what is kept of it.

        Returns where its data goes; NULL where no buffer is free: then the store is assigned as it is.
        """
        self.clamp(packet, kept_bytes)
        if not self.make_room(zbuf_block_bytes(packet)):
            self.buffer_full()
            return NULL
        return zbuf_block_begin(self.zbufs[self.store].blocks + self.zbufs[self.store].length, packet)

    cdef inline void clamp(self, zbuf_packet *packet, uint32_t kept_bytes) noexcept nogil:
        cdef uint32_t block
        packet.dropped += self.lost
        packet.caplen = min(packet.caplen, min(min(kept_bytes, self.snaplen), ZBUF_MAX_CAPLEN))
        block = zbuf_block_bytes(packet)
        if block > self.capacity:  # larger than a whole buffer: truncated, never dropped
            packet.caplen = self.capacity - (block - zbuf_pad(packet.caplen))

    cdef inline bint make_room(self, uint32_t block_bytes) noexcept nogil:
        """See that the store takes block_bytes more, if a buffer is free or can be reclaimed."""
        if self.can_write_buffer() and self.fits(block_bytes):
            return True
        self.reclaim()
        if self.can_write_buffer() and self.fits(block_bytes):
            return True
        if self.free_ == NONE:
            return False
        self.rotate_buffers()
        return True

    cdef inline bint fits(self, uint32_t block_bytes) noexcept nogil:
        return self.zbufs[self.store].length + block_bytes <= self.capacity

    cdef inline void count(self, uint32_t kept_bytes, bint placed, uint64_t dropped_by_source) noexcept nogil:
        self.counts.received += 1
        if not placed:
            self.lost += dropped_by_source  # to be told with the next packet that is appended
        if kept_bytes == 0:
            self.counts.filtered += 1
            return
        self.counts.accepted += 1
        if not placed:
            self.counts.dropped += 1
            self.lost += 1
            self.publish_ledger()

    cdef inline void appended(self, const zbuf_packet *packet, uint32_t captured_bytes) noexcept nogil:
        """The block of a packet is whole: count it into the store, and publish it."""
        cdef zbuf *store = &self.zbufs[self.store]
        if store.packets == 0:
            store.first_ns = packet.time_ns
            store.dropped_before = packet.dropped
        store.last_ns = packet.time_ns
        store.packets += 1
        store.length += zbuf_block_bytes(packet)
        zbuf_store(store.header, store.gen + 1, store.length)
        self.lost = 0
        self.counts.truncated += packet.caplen < captured_bytes
        if self.immediate:
            self.rotate_store()

    # ---- the three slots ------------------------------------------------------------------------------------

    cdef void begin_store(self) noexcept nogil:
        """A buffer came into the store slot: empty it, under the generation that it will be assigned as."""
        cdef zbuf *store = &self.zbufs[self.store]
        store.length = store.packets = 0
        zbuf_store(store.header, store.gen + 1, 0)

    cdef void rotate_buffers(self) noexcept nogil:
        """hold := store, store := free.  The caller has seen that there is a free one, and so no hold."""
        self.hold = self.store
        self.store = self.free_
        self.free_ = NONE
        self.begin_store()
        self.buffer_held()

    cdef void buffer_full(self) noexcept nogil:
        """The store refuses a packet and no buffer is free: let the readers have it as it is."""
        if not self.zbufs[self.store].assigned:
            self.assign(&self.zbufs[self.store])
            self.note_stall()

    cdef void note_stall(self) noexcept nogil:
        """Both buffers are the readers' now: remember whose turn it is to give one back."""
        cdef uint32_t at
        for at in range(self.reader_count):
            if self.readers[at].owes[self.hold]:
                self.readers[at].stalls += 1
                self.readers[at].stalling = True
                self.readers[at].dropped_when = self.counts.dropped

    cdef void buffer_held(self) noexcept nogil:
        """A buffer came into the hold slot: assign it, unless it was assigned in the store already."""
        if not self.zbufs[self.hold].assigned:
            self.assign(&self.zbufs[self.hold])

    cdef void assign(self, zbuf *held) noexcept nogil:
        cdef zbuf_header *header = held.header
        cdef uint32_t at
        cdef int which = held != &self.zbufs[0]
        header.kernel_len = held.length
        header.packets = held.packets
        header.sequence = held.sequence = self.next_sequence
        header.first_ns = held.first_ns
        header.last_ns = held.last_ns
        header.dropped_before = held.dropped_before
        held.assigned = True
        held.acknowledged = 0
        held.gen += 1
        self.next_sequence += 1
        for at in range(self.reader_count):
            self.readers[at].owes[which] = True
        self.publish_ledger()
        zbuf_assign(header, held.gen)
        self.wake()

    cdef void wake(self) noexcept nogil:
        """Ring for the readers that sleep; those that are busy find the buffer by themselves."""
        cdef uint32_t at
        zbuf_fence_sleepers()
        for at in range(self.reader_count):
            if zbuf_sleeper(self.readers[at].ack):
                send(self.readers[at].doorbell, b"!", 1, MSG_DONTWAIT | MSG_NOSIGNAL)  # a full one has rung
                self.bells += 1

    cdef bint can_free_buffer(self, int which) noexcept nogil:
        """Whether every reader that was assigned this buffer, and is still there, has acknowledged it."""
        cdef uint32_t at
        cdef bint owed = False
        for at in range(self.reader_count):
            self.look_at_reader(&self.readers[at], which)
            owed |= self.readers[at].owes[which]
        return not owed

    cdef void look_at_reader(self, zbuf_reader *reader, int which) noexcept nogil:
        """See whether a reader has given a buffer back; once seen, it can't take that back."""
        if reader.owes[which] and zbuf_acknowledged(reader.ack, which, self.zbufs[which].gen):
            reader.owes[which] = False
            reader.delivered += self.zbufs[which].packets
            self.zbufs[which].acknowledged += 1
            if reader.stalling:  # the older buffer is given back first
                reader.stalling = False
                reader.dropped += self.counts.dropped - reader.dropped_when

    cdef inline bint can_write_buffer(self) noexcept nogil:
        """Whether the store is the producer's to write: not where it was assigned before the hold came back."""
        return not self.zbufs[self.store].assigned

    cdef void buffer_reclaimed(self) noexcept nogil:
        """The hold came back and is free: its packets were delivered, or every reader that had it has left."""
        cdef zbuf *reclaimed = &self.zbufs[self.free_]
        reclaimed.assigned = False
        reclaimed.header.user_gen = reclaimed.gen
        if reclaimed.acknowledged:
            self.counts.delivered += reclaimed.packets
        else:
            self.counts.abandoned += reclaimed.packets

    cdef void reclaim(self) noexcept nogil:
        """Take back what the readers have acknowledged, in turn.

        A store that was assigned becomes the hold here, so that it is assigned in no other state than with both
        buffers owed, and the two are never acknowledged and yet unusable.
        """
        while self.hold != NONE and self.can_free_buffer(self.hold):
            self.free_ = self.hold
            self.hold = NONE
            self.buffer_reclaimed()
            if not self.can_write_buffer():
                self.rotate_buffers()

    cdef bint rotate_store(self) noexcept nogil:
        """Assign what the store has, if a buffer is free or can be reclaimed for the next packets."""
        self.reclaim()
        if self.hold != NONE or self.zbufs[self.store].length == 0:
            return False
        self.rotate_buffers()
        return True

    # ---- requests of readers, and time ------------------------------------------------------------------------

    def rotate(self):
        """Assign what was stored though it is not full (BIOCROTZBUF).

        Returns:
            Whether there was something, and a buffer free for what comes next.
        """
        self.need_memory()
        return self.rotate_store()

    def tick(self, uint64_t now_ns):
        """Assign a store whose oldest packet has waited for the read timeout; in immediate mode, any packet at all.

        Ticks are what it knows of time: a wait counts from the first tick that sees it, so that it ends at the first
        tick that comes a timeout later, and appending a packet reads no clock.

        Args:
            now_ns: of a clock that never goes back.
        """
        self.need_memory()
        self.reclaim()
        if self.immediate:
            self.rotate_store()
        if not self.timeout_ns or not self.can_write_buffer() or self.zbufs[self.store].length == 0:
            return
        if self.waiting_sequence != self.next_sequence:
            self.waiting_sequence = self.next_sequence
            self.waiting_since_ns = now_ns
        elif now_ns - self.waiting_since_ns >= self.timeout_ns:
            self.rotate_store()

    def flush(self):
        """Start afresh (reset_d): empty the store and zero the ledger.

        What is assigned is the readers', and stays: the ledger goes on from those packets, so that it adds up.
        """
        self.need_memory()
        self.reclaim()
        if self.can_write_buffer():
            self.begin_store()
            self.waiting_sequence = <uint64_t>-1
        self.forget_stalls()
        memset(&self.counts, 0, sizeof(self.counts))
        self.counts.received = self.counts.accepted = self.buffered()
        self.lost = 0
        self.publish_ledger()

    cdef void forget_stalls(self) noexcept nogil:
        cdef uint32_t at
        for at in range(self.reader_count):
            self.readers[at].stalls = self.readers[at].dropped = self.readers[at].dropped_when = 0

    def set_filter(self, bytes program not None, bint flush=True):
        """Install a filter program for the packets to come, with a flush (BIOCSETF) or without (BIOCSETFNR).

        Args:
            program: instructions of struct bpf_insn, as compile_filter() makes them; empty to accept everything.
            flush: discard what the old filter let in and is not assigned yet.

        Raises:
            FilterError: the program is not a valid one; the old one stays.
        """
        self.need_memory()
        set_program(&self.filter, program)
        if flush:
            self.flush()

    def finish(self):
        """Assign the tail, as the last thing before the end: there will be no more packets."""
        self.need_memory()
        if not self.rotate_store() and self.zbufs[self.store].length:
            self.buffer_full()

    def abandon(self):
        """Count everything that is buffered as abandoned: the last reader has left, and nobody will come."""
        self.need_memory()
        self.reclaim()
        self.counts.abandoned += self.buffered()
        self.zbufs[0].packets = self.zbufs[1].packets = 0

    # ---- what it says of itself -------------------------------------------------------------------------------

    cdef uint64_t buffered(self) noexcept nogil:
        cdef uint64_t packets = 0
        if self.store != NONE:
            packets += self.zbufs[self.store].packets
        if self.hold != NONE:
            packets += self.zbufs[self.hold].packets
        return packets

    cdef void publish_ledger(self) noexcept nogil:
        self.counts.buffered = self.buffered()
        self.segment.ledger = self.counts

    def ledger(self):
        """The counters as a dict; at every call they add up:

        received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered.
        """
        if self.has_memory:
            self.reclaim()
            self.publish_ledger()
        return self.counts

    def slots(self):
        """Which buffer (0 for A, 1 for B) is in which slot, and what is in them: for tests and for the curious."""
        return {
            "store": self.store,
            "hold": None if self.hold == NONE else self.hold,
            "free": None if self.free_ == NONE else self.free_,
            "assigned": (bool(self.zbufs[0].assigned), bool(self.zbufs[1].assigned)),
            "generations": (self.zbufs[0].gen, self.zbufs[1].gen),
            "lengths": (self.zbufs[0].length, self.zbufs[1].length),
            "packets": (self.zbufs[0].packets, self.zbufs[1].packets),
            "next_sequence": self.next_sequence,
        }

    @property
    def closed(self):
        """Whether close() was called."""
        return self.was_set_up and not self.has_memory

    @property
    def capacity_bytes(self):
        """The bytes of blocks that one buffer holds."""
        return self.capacity

    cdef need_memory(self):
        if not self.has_memory:
            raise SegmentError("descriptor without buffers: install them with set_buffers() first")


cdef bpf_insn *copy_program(bytes program) except? NULL:
    """A copy of a valid program, to be freed; NULL for an empty one."""
    cdef size_t size = len(program)
    cdef bpf_insn *copy
    if size == 0:
        return NULL
    if not is_valid_program(program):
        raise FilterError(f"filter program of {size} bytes is not a valid one")
    copy = <bpf_insn *>malloc(size)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char *>program, size)
    return copy


cdef set_program(packet_filter *filter, bytes program):
    """Put a program in the place of a filter's."""
    cdef packet_filter made
    cdef bpf_insn *copy = copy_program(program)
    memset(&made, 0, sizeof(made))
    if copy != NULL and not packet_filter_set(&made, copy, <uint32_t>(len(program) // sizeof(bpf_insn))):
        free(copy)
        raise MemoryError
    packet_filter_free(filter)
    filter[0] = made


cdef bint is_valid_program(bytes program) except -1:
    """What bpf_validate() says, and that every instruction exists: it lets some pass that bpf_filter() aborts at."""
    cdef size_t size = len(program)
    if size % sizeof(bpf_insn):
        return False
    cdef const bpf_insn *instructions = <const bpf_insn *><const char *>program
    cdef int count = <int>(size // sizeof(bpf_insn))
    codes = {int.from_bytes(program[at:at + 2], "little") for at in range(0, size, sizeof(bpf_insn))}
    return (codes <= INSTRUCTIONS and bpf_validate(instructions, count) != 0
            and can_answer_loads(instructions, <uint32_t>count))


cdef packet_of(zbuf_packet *packet, Py_ssize_t length, time_ns, wirelen, interface, direction):
    """Fill in all of a packet but its data."""
    memset(packet, 0, sizeof(zbuf_packet))
    if direction not in DIRECTIONS:
        raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
    try:
        packet.time_ns = time_ns
        packet.wirelen = length if wirelen is None else wirelen
        packet.interface_id = interface
    except (OverflowError, TypeError) as error:
        raise ValueRefused(
            f"packet with time_ns={time_ns!r}, wirelen={wirelen!r}, interface={interface!r}: {error}"
        ) from None
    packet.caplen = <uint32_t>min(length, ZBUF_MAX_CAPLEN + 1)  # one byte too many, so that the cut is counted
    packet.direction = DIRECTIONS[direction]


cdef gather(uint8_t *place, size_t length, views):
    """Copy the first `length` bytes of the fragments, one after the other."""
    cdef Py_buffer view
    cdef size_t some
    for fragment in views:
        PyObject_GetBuffer(fragment, &view, PyBUF_SIMPLE)
        some = min(length, <size_t>view.len)
        memcpy(place, view.buf, some)
        PyBuffer_Release(&view)
        place += some
        length -= some
