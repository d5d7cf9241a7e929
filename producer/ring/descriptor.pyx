"""One listener on a capture: two zbufs, the readers that share them, a filter, counters.

This is bpf(4)'s zero-copy mode (FreeBSD, sys/net/bpf_zerocopy.c) with catchpacket()'s rules around it (sys/net/bpf.c).
A zbuf is in one of three slots, which are private to the producer:

    store   being filled.  There always is one.
    hold    filled, assigned to the readers, waiting until all of them have acknowledged it.
    free    neither; there is one exactly when hold is empty.

Only two functions read what a reader can write, can_free_buffer() and wake(), and each takes it for a yes or a no.

Where FreeBSD's functions are here:

    append_bytes, append_mbuf        append_bytes, append_fragments
    buffull, bufheld, buf_reclaimed  buffer_full, buffer_held, buffer_reclaimed
    canfreebuf, canwritebuf          can_free_buffer, can_write_buffer
    ROTATE_BUFFERS, rotzbuf          rotate_buffers, rotate
    setzbuf, zbuf_setup, getzmax     set_buffers, setup_buffer, max_buffer_bytes
    free, reset_d, setf/setfnr       close, flush, set_filter

One thing differs: rotate(), tick() and immediate mode reclaim an acknowledged hold before they look at it.  FreeBSD
leaves that to the next packet, and so strands the tail of the traffic until one comes.

Nothing here locks.  Only the thread that owns the descriptors (see zbuf.producer.serving.owner) may call it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

cimport cython

from zbuf.producer.filters cimport ordinary_filter_run
from zbuf.producer.pcap cimport bpf_insn
from zbuf.producer.ring.accounts cimport (
    all_passed,
    close_account,
    find_account,
    forget_stalls,
    has_acknowledged,
    new_account,
    note_assigned,
    note_given_back,
    note_stall,
    reader_account,
    reader_accounts,
    ring_sleepers,
    stalled_packets,
)
from zbuf.producer.ring.contract cimport PacketSink
from zbuf.producer.ring.filter_share cimport FilterShare
from zbuf.producer.ring.packets cimport describe_packet, gather
from zbuf.producer.ring.programs cimport filter_programs, free_programs, has_programs, run_programs, set_programs
from zbuf.shared.memory.abi cimport (
    ZBUF_CLOSED,
    ZBUF_FINISHED,
    ZBUF_IDB_TYPE,
    ZBUF_MAX_BYTES,
    ZBUF_MAX_CAPLEN,
    ZBUF_NO_END,
    ZBUF_PAGE_BYTES,
    zbuf_ack,
    zbuf_acknowledge,
    zbuf_assign,
    zbuf_block_begin,
    zbuf_block_bytes,
    zbuf_fence_sleepers,
    zbuf_grow_prologue,
    zbuf_has_flags,
    zbuf_header,
    zbuf_ledger,
    zbuf_next_block,
    zbuf_options,
    zbuf_packet,
    zbuf_pad,
    zbuf_segment,
    zbuf_set_state,
    zbuf_store,
    zbuf_write_ledger,
)
from zbuf.shared.memory.spin cimport thread_ns

from zbuf.producer.filters import REFUSE_ALL
from zbuf.producer.ring.packets import direction_number
from zbuf.shared.errors import SegmentError, ValueRefused
from zbuf.shared.memory.layout import check_buffer_bytes

cdef extern from "zbuf/producer/ring/copy.h" nogil:
    void zbuf_copy(uint8_t *to, const uint8_t *source, uint32_t length_bytes)

cdef enum:
    NONE = -1  # an empty slot
    SECOND_NS = 1_000_000_000

    WEIGHED_EACH = 4096     # packets, after which a filter is weighed again
    WEIGHED_RUNS = 32
    INSTRUCTION_NS = 16     # more than any takes: what is above that is not the filter, but an interrupt

# A zbuf as its owner sees it.  The header's generation and length are written from here and never read back.
cdef struct zbuf:
    zbuf_header *header
    uint8_t *blocks
    uint32_t gen             # kernel_gen
    bint assigned            # to the readers, and not reclaimed since: not ours to write
    uint32_t length
    uint32_t packets
    uint64_t wire_bytes      # of those packets
    uint32_t head_bytes      # of the Interface Description Blocks that it begins with
    uint32_t head_interfaces
    uint64_t sequence
    uint64_t first_ns
    uint64_t last_ns
    uint64_t dropped_before
    uint32_t acknowledged    # by how many readers since its last assignment

cdef struct held_view:  # in a struct of its own, or the garbage collector would clear it before it is released
    Py_buffer view


@cython.final
cdef class Descriptor(PacketSink):
    """Two zbufs, their readers, a filter and a ledger.

    Args:
        snaplen: bytes kept of each packet, 1 to 262,144.
        immediate: assign each packet at once while a buffer is free (BIOCIMMEDIATE).
        timeout_ms: assign a store that is not full after this time, in milliseconds (BIOCSRTIMEOUT); 0 for never.
        direction: "in", "out" or "inout" (BIOCSDIRECTION); packets whose direction is not known always pass.
        interfaces: a bit for each interface whose packets it sees, from bit 0 on; None for all interfaces.
        guard: a filter program that says what its readers may see, or one for each interface; it comes before the
            filter, and set_filter() leaves it alone.

    Packets that direction, interfaces or guard keep from it are not counted at all.

    It takes packets once set_buffers() has given it memory.

    Raises:
        ValueRefused: an argument is out of its range.
        FilterError: the guard is not a valid program.
    """

    cdef zbuf zbufs[2]
    cdef int store, hold, free_
    cdef uint32_t capacity          # bytes of blocks that one zbuf holds
    cdef zbuf_segment *segment
    cdef held_view held             # of the memory
    cdef bint has_memory
    cdef bint was_set_up            # once in its life

    cdef reader_accounts accounts

    cdef uint32_t limit             # capacity; or 0, so that no packet fits, while interfaces wait to be announced
    cdef uint8_t *pending           # the Interface Description Blocks of those
    cdef uint32_t pending_bytes
    cdef readonly uint32_t announced
    """Interfaces, by the prologue and by the heads of buffers up to the store's."""
    cdef readonly bint prologue_full
    """Whether an interface was announced for which the prologue has no room: no more readers can be let in."""
    cdef readonly bint finished
    """Whether finish() was called."""

    cdef filter_programs programs
    cdef object program             # as set_filter() got it
    cdef FilterShare share          # that pays for it; None where nobody has to
    cdef readonly int64_t cost_ns
    """What the filter costs for a packet beyond an ordinary one, in nanoseconds of processor time."""
    cdef bint weighed
    cdef uint32_t instructions      # of its longest program
    cdef uint32_t unweighed         # packets since it was weighed
    cdef readonly uint32_t snaplen
    cdef readonly bint immediate
    cdef readonly uint64_t timeout_ns
    cdef uint32_t direction
    cdef bint restricted            # to some interfaces, or by a guard
    cdef uint64_t interfaces
    cdef filter_programs guards
    cdef object guard

    cdef zbuf_ledger counts         # all but `buffered` and `accepted_bytes`, which follow from others
    cdef bint unpublished           # packets were dropped that page 0 does not tell of
    cdef uint64_t lost              # dropped since the last packet that was appended
    cdef uint64_t next_sequence
    cdef uint64_t waiting_sequence  # the filling that tick() saw last, and when it first did
    cdef uint64_t waiting_since_ns
    cdef readonly uint64_t bells
    cdef readonly uint64_t blocks_left_out
    """Blocks other than packets for which no buffer was free, or large enough."""

    def __cinit__(self, *, snaplen=ZBUF_MAX_CAPLEN, immediate=False, timeout_ms=0, direction="inout", interfaces=None,
                  guard=b""):
        self.store = self.hold = self.free_ = NONE
        self.waiting_sequence = <uint64_t>-1
        if not 1 <= snaplen <= ZBUF_MAX_CAPLEN:
            raise ValueRefused(f"snaplen {snaplen}: it must be from 1 to {ZBUF_MAX_CAPLEN}")
        if timeout_ms < 0:
            raise ValueRefused(f"read timeout {timeout_ms} ms: it can't be negative")
        self.direction = direction_number(direction)
        self.snaplen = snaplen
        self.immediate = immediate
        self.timeout_ns = max(1, round(timeout_ms * 1_000_000)) if timeout_ms else 0
        self.restricted = interfaces is not None or guard != b""
        self.interfaces = <uint64_t>-1 if interfaces is None else interfaces
        self.program, self.guard = b"", guard
        set_programs(&self.guards, guard)

    def __dealloc__(self):
        self.release()
        free(self.accounts.readers)
        free(self.pending)
        free_programs(&self.programs)
        free_programs(&self.guards)

    # ---- set-up -------------------------------------------------------------------------------------------

    @staticmethod
    def max_buffer_bytes():
        """The largest size of a buffer, header included (BIOCGETZMAX)."""
        return ZBUF_MAX_BYTES

    def set_buffers(self, memory, size_t offset_a, size_t offset_b, size_t buffer_bytes):
        """Install the two buffers, once (BIOCSETZBUF).

        Args:
            memory: a writable mapping that begins with a struct zbuf_segment; it is kept until close().  The interfaces
                that its prologue describes are announced.
            offset_a, offset_b: where the buffers begin in the memory, in bytes; page-aligned.
            buffer_bytes: the size of each buffer, header included; whole pages, at most max_buffer_bytes().

        Raises:
            ValueRefused: a size or an offset breaks these rules.
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
        self.capacity = self.limit = <uint32_t>(buffer_bytes - sizeof(zbuf_header))
        self.announced = self.described()
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

    cdef uint32_t described(self):
        """How many interfaces the prologue describes."""
        cdef uint64_t length = self.segment.prologue_bytes, offset = self.segment.prologue_offset
        cdef uint32_t at = 0, following = 0, kind = 0, found = 0
        cdef uint64_t size = <uint64_t>self.held.view.len
        if offset > size or length > min(size - offset, <uint64_t>1 << 31):
            return 0
        while at < length:
            following = zbuf_next_block(<const uint8_t *>self.segment + offset, <uint32_t>length, at, &kind)
            if following == 0:
                break
            found += kind == ZBUF_IDB_TYPE
            at = following
        return found

    def close(self):
        """Remove all readers, mark the segment closed, and let go of its memory; the ledger stays.

        Readers can go on reading what they were assigned. Without a finish() before, they learn that they were taken
        off, and not that the stream has ended.
        """
        if self.has_memory:
            self.reclaim()
            self.publish_ledger()
            if not self.finished:
                self.segment.end_sequence = ZBUF_NO_END
            zbuf_set_state(self.segment, ZBUF_CLOSED)
        self.release()

    cdef void release(self):
        while self.accounts.count:
            close_account(&self.accounts, self.accounts.readers)
        if self.has_memory:
            self.sum_up()
            self.has_memory = False
            PyBuffer_Release(&self.held.view)
        self.store = self.hold = self.free_ = NONE

    # ---- readers ------------------------------------------------------------------------------------------

    def add_reader(self, uint32_t number, ack_page, int doorbell):
        """Let one more reader in, from the next assignment on.

        Args:
            number: the caller's name for the reader, not in use here.
            ack_page: the producer's mapping of the reader's struct zbuf_ack; it is kept until remove_reader().
            doorbell: the producer's end of make_doorbell(); it is rung while the reader sleeps.

        Returns:
            The sequence number of the first buffer that the reader will get, and the number of interfaces that were
            announced before that one's head: it cuts the prologue to so many.

        Raises:
            ValueRefused: the number is in use.
            SegmentError: the ack page is too short, the descriptor has no buffers, it is finished, or it has more
                interfaces than its prologue has room for.
        """
        cdef reader_account *reader
        cdef int which
        self.need_memory()
        self.check_open()
        if find_account(&self.accounts, number) != NULL:
            raise ValueRefused(f"reader {number} is there already")
        reader = new_account(&self.accounts)
        if reader == NULL:
            raise MemoryError
        PyObject_GetBuffer(ack_page, &reader.view, PyBUF_WRITABLE)
        if reader.view.len < <Py_ssize_t>sizeof(zbuf_ack):
            PyBuffer_Release(&reader.view)
            raise SegmentError("ack page too short")
        reader.number = number
        reader.doorbell = doorbell
        reader.ack = <const zbuf_ack *>reader.view.buf
        for which in range(2):  # the reader's only page, and the only time that anybody else writes it
            zbuf_acknowledge(<zbuf_ack *>reader.view.buf, which, self.zbufs[which].gen)
        self.accounts.count += 1
        return self.next_sequence, self.announced_before()

    cdef check_open(self):
        if self.finished:
            raise SegmentError("descriptor that is finished: it lets no more readers in")
        if self.prologue_full:
            raise SegmentError(
                f"descriptor with {self.announced} interfaces, of which its prologue has no room for all: "
                "connect without joining it"
            )

    cdef uint32_t announced_before(self):
        """Interfaces that were announced before the head of the buffer that is assigned next."""
        return self.announced - (self.zbufs[self.store].head_interfaces if self.can_write_buffer() else 0)

    def remove_reader(self, uint32_t number):
        """Remove a reader: nothing waits for it any more, and buffers that no reader acknowledged are abandoned.

        Returns:
            How many packets the reader acknowledged.

        Raises:
            ValueRefused: there is no reader of this number.
        """
        cdef reader_account *reader = self.reader(number)
        self.look_at_reader(reader, 0)  # what it gave back until now counts
        self.look_at_reader(reader, 1)
        delivered = reader.delivered
        close_account(&self.accounts, reader)
        self.reclaim()
        return delivered

    def reader_counts(self, uint32_t number):
        """(packets acknowledged, buffers not given back) of one reader, as of now."""
        cdef reader_account *reader = self.reader(number)
        self.reclaim()
        self.look_at_reader(reader, 0)
        self.look_at_reader(reader, 1)
        return reader.delivered, reader.owes[0] + reader.owes[1]

    def reader_stalls(self, uint32_t number):
        """(times that no buffer was free because of this reader, packets that were dropped in those times)."""
        cdef reader_account *reader = self.reader(number)
        return reader.stalls, stalled_packets(reader, self.counts.dropped)

    def stalled_by(self):
        """Which readers keep the producer from writing, while others have given back the buffer that it waits for.

        Returns:
            The number of that buffer's assignment, and a list of the readers that owe the buffer. The list is empty
            where a buffer is free, and where all readers owe it, so that none waits for another.
        """
        cdef uint32_t at, count = self.accounts.count
        self.need_memory()
        self.reclaim()
        if self.hold == NONE or self.can_write_buffer():
            return 0, []
        owing = [self.accounts.readers[at].number for at in range(count) if self.accounts.readers[at].owes[self.hold]]
        return self.zbufs[self.hold].sequence, owing if len(owing) < <int>count else []

    cdef reader_account *reader(self, uint32_t number) except NULL:
        cdef reader_account *found = find_account(&self.accounts, number)
        if found == NULL:
            raise ValueRefused(f"reader {number} is not there")
        return found

    # ---- appending (catchpacket) --------------------------------------------------------------------------

    def append_bytes(self, data, *, time_ns=0, wirelen=None, interface=0, direction="inout"):
        """Take one packet, or count why it was not taken.

        Args:
            data: the captured bytes.
            time_ns: when it was captured, in nanoseconds since 1970.
            wirelen: its length on the wire in bytes; by default the length of `data`.
            interface: the number of its interface in the prologue.
            direction: "in", "out", or "inout" where it is not known.

        Raises:
            ValueRefused: a value is out of its range.
        """
        cdef zbuf_packet packet
        cdef Py_buffer view
        self.need_memory()
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            describe_packet(&packet, view.len, time_ns, wirelen, interface, direction_number(direction))
            packet.data = <const uint8_t *>view.buf
            self.take(&packet, 1, False)
        finally:
            PyBuffer_Release(&view)

    def append_fragments(self, fragments, *, time_ns=0, wirelen=None, interface=0, direction="inout"):
        """append_bytes() for a packet that lies in several pieces in memory: a sequence of bytes-like objects.

        They are copied straight into the buffer. Only a filter, which needs the bytes in one piece, gets another copy.
        """
        cdef zbuf_packet packet
        cdef uint32_t kept_bytes, caplen
        cdef uint8_t *place = NULL
        self.need_memory()
        views = [memoryview(fragment).cast("B") for fragment in fragments]
        describe_packet(&packet, sum(map(len, views)), time_ns, wirelen, interface, direction_number(direction))
        joined = b"".join(views) if has_programs(&self.programs) or has_programs(&self.guards) else b""
        packet.data = joined
        if self.finished or not self.sees(&packet):
            return
        caplen = packet.caplen
        kept_bytes = self.verdict(&packet)
        if kept_bytes:
            place = self.place_for(&packet, kept_bytes)
        self.count(&packet, kept_bytes, place != NULL, 0)
        if place != NULL:
            gather(place, packet.caplen, views)
            self.appended(&packet, caplen)
        else:
            self.publish_ledger()

    cdef uint32_t take(self, const zbuf_packet *packets, uint32_t count, bint lossless) noexcept nogil:
        """The packet path; see PacketSink."""
        if not self.has_memory or self.finished:
            return count
        if self.share is not None and not lossless and not self.can_pay(packets, count):
            self.pass_over(packets, count)
            return count
        cdef bint takes_all = self.takes_all()
        cdef uint32_t at = 0
        while at < count:
            if takes_all:
                at += self.append_run(packets + at, count - at)
            if at < count:
                if not self.take_one(&packets[at], lossless):
                    return at
                at += 1
        if self.unpublished:
            self.publish_ledger()
        return count

    cdef inline bint takes_all(self) noexcept nogil:
        """Whether no packet is kept from the readers, and none rotates the buffers by itself."""
        return not (self.direction or self.restricted or has_programs(&self.programs) or self.immediate)

    cdef inline uint32_t append_run(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        """Append packets while each of them goes into the store just as it is; returns how many.

        This does for a run of packets what take_one() does for each: it leaves the counts to the end of the run, and
        whatever needs a decision to take_one(), the first packet of a buffer too.
        """
        cdef zbuf *store = &self.zbufs[self.store]
        cdef uint32_t done = 0, length = store.length, limit = self.limit, gen = store.gen + 1, block_bytes
        cdef uint32_t longest = min(self.snaplen, <uint32_t>ZBUF_MAX_CAPLEN)
        cdef uint64_t wire_bytes = 0
        cdef uint8_t *place
        if store.packets == 0 or store.assigned or self.lost:
            return 0
        while done < count and packets[done].caplen <= longest and packets[done].options_words == 0:
            block_bytes = zbuf_block_bytes(&packets[done])
            if length + block_bytes > limit:
                break
            place = zbuf_block_begin(store.blocks + length, &packets[done], NULL)
            zbuf_copy(place, packets[done].data, packets[done].caplen)
            length += block_bytes
            zbuf_store(store.header, gen, length)
            wire_bytes += packets[done].wirelen
            done += 1
        if done:
            store.length = length
            store.packets += done
            store.wire_bytes += wire_bytes
            store.last_ns = packets[done - 1].time_ns
            self.counts.received += done
            self.counts.received_bytes += wire_bytes
            self.counts.accepted += done
        return done

    cdef bint take_one(self, const zbuf_packet *offered, bint lossless) noexcept nogil:
        """Take a packet, or count why it was not taken; False where a lossless descriptor has to wait for room."""
        cdef zbuf_packet packet = offered[0]
        cdef uint8_t *place = NULL
        cdef uint32_t kept_bytes
        if not self.sees(&packet):
            return True
        kept_bytes = self.verdict(&packet)
        if kept_bytes:
            place = self.place_for(&packet, kept_bytes)
            if place == NULL and lossless:
                return False
        self.count(&packet, kept_bytes, place != NULL, offered.dropped)
        if place != NULL:
            zbuf_copy(place, packet.data, packet.caplen)
            self.appended(&packet, offered.caplen)
        return True

    cdef bint can_pay(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        """Pay for running the filter on packets; False where its user's share is used up."""
        if not has_programs(&self.programs) or count == 0:
            return True
        if not self.weighed or self.unweighed >= WEIGHED_EACH:
            self.weigh(packets, count)
        self.unweighed += count
        return self.share.pay(max(<int64_t>0, self.cost_ns) * count)

    cdef void weigh(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        """Measure how much more the filter costs than an ordinary one, for packets such as these.

        Of two measurements the shorter counts: the first fills caches, and either may be interrupted.
        """
        cdef int64_t ordinary_ns = min(self.time_ordinary(packets, count), self.time_ordinary(packets, count))
        cdef int64_t cost_ns = min(self.time_filter(packets, count), self.time_filter(packets, count))
        cost_ns = min((cost_ns - ordinary_ns) // WEIGHED_RUNS, <int64_t>INSTRUCTION_NS * self.instructions)
        self.cost_ns = (3 * self.cost_ns + cost_ns) // 4 if self.weighed else cost_ns
        self.weighed = True
        self.unweighed = 0

    cdef int64_t time_ordinary(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        cdef uint32_t at
        cdef int64_t started_ns = thread_ns()
        for at in range(<uint32_t>WEIGHED_RUNS):
            ordinary_filter_run(&packets[at % count])
        return thread_ns() - started_ns

    cdef int64_t time_filter(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        cdef uint32_t at
        cdef int64_t started_ns = thread_ns()
        for at in range(<uint32_t>WEIGHED_RUNS):
            self.verdict(&packets[at % count])
        return thread_ns() - started_ns

    cdef void pass_over(self, const zbuf_packet *packets, uint32_t count) noexcept nogil:
        """Drop packets, unfiltered: nobody knows which of them the filter would have refused."""
        cdef uint32_t at
        for at in range(count):
            if self.sees(&packets[at]):
                self.counts.received += 1
                self.counts.received_bytes += packets[at].wirelen
                self.counts.accepted += 1
                self.counts.dropped += 1
                self.counts.dropped_bytes += packets[at].wirelen
                self.lost += 1 + packets[at].dropped
                self.share.passed_over += 1
        self.publish_ledger()

    cdef bint take_block(self, const zbuf_packet *block, bint lossless) noexcept nogil:
        """A block that is no packet; see PacketSink.  Only those who may see all packets get it."""
        if not self.has_memory or self.finished or self.restricted:
            return True
        if block.caplen <= self.capacity and self.make_room(block.caplen):
            zbuf_copy(self.zbufs[self.store].blocks + self.zbufs[self.store].length, block.data, block.caplen)
            self.zbufs[self.store].length += block.caplen
            self.publish_store()
            return True
        if block.caplen <= self.capacity:
            self.buffer_full()
            if lossless:
                return False
        self.blocks_left_out += 1
        return True

    cdef bint has_room(self) noexcept nogil:
        """Whether it is worth trying again; see PacketSink."""
        return not self.has_memory or self.hold == NONE or self.can_free_buffer(self.hold)

    cdef inline bint sees(self, const zbuf_packet *packet) noexcept nogil:
        if self.direction and packet.direction and self.direction != packet.direction:
            return False
        return not self.restricted or self.may_see(packet)

    cdef bint may_see(self, const zbuf_packet *packet) noexcept nogil:
        cdef uint32_t number = packet.interface_id
        if self.interfaces != <uint64_t>-1 and (number >= 64 or not self.interfaces >> number & 1):
            return False
        return run_programs(&self.guards, packet) != 0

    cdef inline uint32_t verdict(self, const zbuf_packet *packet) noexcept nogil:
        """How many bytes of a packet the filter wants; 0 where it refuses the packet."""
        return run_programs(&self.programs, packet)

    cdef inline uint8_t *place_for(self, zbuf_packet *packet, uint32_t kept_bytes) noexcept nogil:
        """Begin the block of a packet, of which it keeps `kept_bytes` at most.

        Returns where the data goes; or NULL where no buffer is free, after assigning the store as it is.
        """
        cdef const uint8_t *options = self.options_of(packet) if packet.options_words else NULL
        self.clamp(packet, kept_bytes)
        if not self.make_room(zbuf_block_bytes(packet)):
            self.buffer_full()
            return NULL
        return zbuf_block_begin(self.zbufs[self.store].blocks + self.zbufs[self.store].length, packet, options)

    cdef const uint8_t *options_of(self, zbuf_packet *packet) noexcept nogil:
        """A packet's options; those that would take more than half of a buffer from it are left out."""
        if packet.options_words > self.capacity // 8:
            packet.options_words = 0
            return NULL
        if zbuf_has_flags(packet):
            packet.direction = 0
        return zbuf_options(packet)

    cdef inline void clamp(self, zbuf_packet *packet, uint32_t kept_bytes) noexcept nogil:
        cdef uint32_t block
        packet.dropped += self.lost
        packet.caplen = min(packet.caplen, min(min(kept_bytes, self.snaplen), <uint32_t>ZBUF_MAX_CAPLEN))
        block = zbuf_block_bytes(packet)
        if block > self.capacity:  # larger than a whole buffer: truncated, never dropped
            packet.caplen = self.capacity - (block - zbuf_pad(packet.caplen))

    cdef inline bint make_room(self, uint32_t block_bytes) noexcept nogil:
        """Whether the store has room for block_bytes more, if need be after a rotation and a reclaim."""
        return (self.can_write_buffer() and self.fits(block_bytes)) or self.find_room(block_bytes)

    cdef bint find_room(self, uint32_t block_bytes) noexcept nogil:
        self.reclaim()
        while not (self.can_write_buffer() and self.fits(block_bytes)):
            if self.free_ == NONE:
                return False
            self.rotate_buffers()  # more than once where one buffer has no room for all interfaces to be announced
            self.reclaim()
        return True

    cdef inline bint fits(self, uint32_t block_bytes) noexcept nogil:
        return self.zbufs[self.store].length + block_bytes <= self.limit

    cdef inline void count(self, const zbuf_packet *packet, uint32_t kept_bytes, bint placed,
                           uint64_t dropped_by_source) noexcept nogil:
        self.counts.received += 1
        self.counts.received_bytes += packet.wirelen
        if not placed:
            self.lost += dropped_by_source  # to be told with the next packet that is appended
        if kept_bytes == 0:
            self.counts.filtered += 1
            self.counts.filtered_bytes += packet.wirelen
            return
        self.counts.accepted += 1
        if not placed:
            self.counts.dropped += 1
            self.counts.dropped_bytes += packet.wirelen
            self.lost += 1
            self.unpublished = True

    cdef inline void appended(self, const zbuf_packet *packet, uint32_t captured_bytes) noexcept nogil:
        """The block of a packet is complete: count it, and publish it."""
        cdef zbuf *store = &self.zbufs[self.store]
        if store.packets == 0:
            store.first_ns = packet.time_ns
            store.dropped_before = packet.dropped
        store.last_ns = packet.time_ns
        store.packets += 1
        store.wire_bytes += packet.wirelen
        store.length += zbuf_block_bytes(packet)
        zbuf_store(store.header, store.gen + 1, store.length)
        self.lost = 0
        self.counts.truncated += packet.caplen < captured_bytes
        if self.immediate:
            self.rotate_store()

    # ---- the three slots ------------------------------------------------------------------------------------

    cdef void begin_store(self) noexcept nogil:
        """A buffer came into the store slot: empty it, under the generation of its next assignment."""
        cdef zbuf *store = &self.zbufs[self.store]
        store.head_bytes = store.head_interfaces = 0
        self.empty_store()
        self.announce_pending()

    cdef void empty_store(self) noexcept nogil:
        """Take everything out of the store but the announcements at its head."""
        cdef zbuf *store = &self.zbufs[self.store]
        store.length = store.head_bytes
        store.packets = 0
        store.wire_bytes = store.first_ns = store.last_ns = store.dropped_before = 0
        self.publish_store()

    cdef void publish_store(self) noexcept nogil:
        """What there is besides packets: how many interfaces are announced, and how far the store has come."""
        cdef zbuf *store = &self.zbufs[self.store]
        store.header.interfaces = self.announced
        zbuf_store(store.header, store.gen + 1, store.length)

    cdef void announce_pending(self) noexcept nogil:
        """Write as many Interface Description Blocks as fit at the head of the store; the others wait for the next."""
        cdef zbuf *store = &self.zbufs[self.store]
        cdef uint32_t taken = 0, following, kind = 0, count = 0
        if self.pending_bytes == 0:
            return
        while taken < self.pending_bytes:
            following = zbuf_next_block(self.pending, self.pending_bytes, taken, &kind)
            if store.head_bytes + following > self.capacity:
                break
            taken = following
            count += 1
        memcpy(store.blocks + store.head_bytes, self.pending, taken)
        self.pending_bytes -= taken
        memmove(self.pending, self.pending + taken, self.pending_bytes)
        store.head_bytes += taken
        store.head_interfaces += count
        store.length = store.head_bytes
        self.announced += count
        self.limit = 0 if self.pending_bytes else self.capacity
        self.publish_store()

    cdef void rotate_buffers(self) noexcept nogil:
        """hold := store, store := free.  The caller has made sure that a buffer is free, and so no hold is there."""
        self.hold = self.store
        self.store = self.free_
        self.free_ = NONE
        self.begin_store()
        self.buffer_held()

    cdef void buffer_full(self) noexcept nogil:
        """The store has no room for a packet and no buffer is free: give the store to the readers as it is."""
        if not self.zbufs[self.store].assigned:
            self.assign(&self.zbufs[self.store])
            note_stall(&self.accounts, self.hold, self.counts.dropped)

    cdef void buffer_held(self) noexcept nogil:
        """A buffer came into the hold slot: assign it, unless it was assigned in the store already."""
        if not self.zbufs[self.hold].assigned:
            self.assign(&self.zbufs[self.hold])

    cdef void assign(self, zbuf *held) noexcept nogil:
        cdef zbuf_header *header = held.header
        cdef int which = held != &self.zbufs[0]
        header.kernel_len = held.length
        header.packets = held.packets
        header.wire_bytes = held.wire_bytes
        header.sequence = held.sequence = self.next_sequence
        header.first_ns = held.first_ns
        header.last_ns = held.last_ns
        header.dropped_before = held.dropped_before
        held.assigned = True
        held.acknowledged = 0
        held.gen += 1
        self.next_sequence += 1
        note_assigned(&self.accounts, which)
        self.publish_ledger()
        zbuf_assign(header, held.gen)
        self.wake()

    cdef void wake(self) noexcept nogil:
        """Ring for the readers that sleep; busy readers find the buffer by themselves."""
        zbuf_fence_sleepers()
        self.bells += ring_sleepers(&self.accounts)

    cdef bint can_free_buffer(self, int which) noexcept nogil:
        """Whether every reader that was assigned this buffer, and is still there, has acknowledged it."""
        cdef uint32_t at
        cdef bint owed = False
        for at in range(self.accounts.count):
            self.look_at_reader(&self.accounts.readers[at], which)
            owed |= self.accounts.readers[at].owes[which]
        return not owed

    cdef void look_at_reader(self, reader_account *reader, int which) noexcept nogil:
        """See whether a reader has given a buffer back."""
        if has_acknowledged(reader, which, self.zbufs[which].gen):
            note_given_back(reader, which, self.zbufs[which].packets, self.counts.dropped)
            self.zbufs[which].acknowledged += 1

    cdef inline bint can_write_buffer(self) noexcept nogil:
        """Whether the producer may write the store: not if it was assigned before the hold came back."""
        return not self.zbufs[self.store].assigned

    cdef void buffer_reclaimed(self) noexcept nogil:
        """The hold came back and is free: its packets were delivered, or all readers that had it have left."""
        cdef zbuf *reclaimed = &self.zbufs[self.free_]
        reclaimed.assigned = False
        reclaimed.header.user_gen = reclaimed.gen
        if reclaimed.acknowledged:
            self.counts.delivered += reclaimed.packets
            self.counts.delivered_bytes += reclaimed.wire_bytes
        else:
            self.counts.abandoned += reclaimed.packets
            self.counts.abandoned_bytes += reclaimed.wire_bytes

    cdef void reclaim(self) noexcept nogil:
        """Take back what the readers have acknowledged, in turn.

        A store that was assigned becomes the hold here. So a store is assigned only while the readers owe both buffers,
        and it never happens that both are acknowledged and neither can be written.
        """
        while self.hold != NONE and self.can_free_buffer(self.hold):
            self.free_ = self.hold
            self.hold = NONE
            self.buffer_reclaimed()
            if not self.can_write_buffer():
                self.rotate_buffers()

    cdef bint rotate_store(self) noexcept nogil:
        """Assign what the store has, if a buffer is free, or can be reclaimed, for the next packets."""
        self.reclaim()
        if self.hold != NONE or self.zbufs[self.store].length == 0:
            return False
        self.rotate_buffers()
        return True

    cdef bint hurry_store(self, uint64_t waited_ns) noexcept nogil:
        """rotate_store(); or if only views keep the hold: assign the store as it is, although no buffer is free.

        Whoever has these views waits for the store, and may not let go of them before it comes.  What comes until then
        is lost.  So this is for a store that has waited, and would take more than a second to fill up at this rate.
        """
        cdef uint64_t length = self.zbufs[self.store].length
        if self.rotate_store():
            return True
        if length == 0 or not self.only_views_hold():
            return False
        if waited_ns < SECOND_NS and length * SECOND_NS >= self.capacity * waited_ns:
            return False
        self.buffer_full()
        return True

    cdef bint only_views_hold(self) noexcept nogil:
        """Whether all readers that owe the hold wait for the store, which is not theirs yet."""
        if self.hold == NONE or not self.can_write_buffer():
            return False
        return all_passed(&self.accounts, self.hold, self.zbufs[self.hold].gen)

    # ---- requests of readers, and time ------------------------------------------------------------------------

    def rotate(self):
        """Assign the store though it is not full (BIOCROTZBUF).

        Returns:
            Whether it was assigned: it had packets, and a buffer was free for those that come next, or is held up by
            no more than views of readers that wait for the store.
        """
        self.need_memory()
        return self.hurry_store(SECOND_NS)

    def tick(self, uint64_t now_ns):
        """Assign a store whose oldest packet has waited for the read timeout; in immediate mode, any packet at all.

        It knows the time from ticks alone, so that appending a packet reads no clock: a wait counts from the first tick
        that sees it, and ends at the first tick that comes a timeout later.

        Where only views of readers keep the other buffer, such a store is assigned, too, but later the fuller it is: a
        full one after a second.  See hurry_store().

        Args:
            now_ns: the time on a clock that never goes back, in nanoseconds.
        """
        self.need_memory()
        self.reclaim()
        if self.immediate:
            self.rotate_store()
        if not (self.timeout_ns or self.immediate) or not self.can_write_buffer():
            return
        if self.zbufs[self.store].length == 0:
            return
        if self.waiting_sequence != self.next_sequence:
            self.waiting_sequence = self.next_sequence
            self.waiting_since_ns = now_ns
        elif now_ns - self.waiting_since_ns >= self.timeout_ns:
            self.hurry_store(now_ns - self.waiting_since_ns)

    def flush(self):
        """Start afresh (reset_d): empty the store and zero the ledger.

        What is assigned belongs to the readers, and stays. The ledger begins with those packets, so that it adds up.
        """
        self.need_memory()
        self.reclaim()
        if self.can_write_buffer():
            self.empty_store()
            self.waiting_sequence = <uint64_t>-1
        forget_stalls(&self.accounts)
        memset(&self.counts, 0, sizeof(self.counts))
        self.sum_up()
        self.counts.received = self.counts.accepted = self.counts.buffered
        self.counts.received_bytes = self.counts.buffered_bytes
        self.lost = 0
        self.publish_ledger()

    def announce(self, bytes block not None, bytes program=None, bytes guard=None):
        """An interface appeared: its number is the next one, and packets of it may come from now on.

        Its Interface Description Block is added to the prologue, if that has room, and written at the head of the store
        if nothing else is in there, or else of the next one: the store takes no packet until then.

        Args:
            block: the Interface Description Block.
            program: the filter program for its packets; None for that of all others, or to refuse its packets where
                others differ in theirs.
            guard: the guard, likewise.

        Raises:
            ValueRefused: the block is none, or larger than a buffer.
            FilterError: a program is not valid.
        """
        cdef uint32_t length = <uint32_t>len(block), kind = 0
        cdef const uint8_t *begin = <const uint8_t *><const char *>block
        cdef uint8_t *grown
        self.need_memory()
        if len(block) > self.capacity or zbuf_next_block(begin, length, 0, &kind) != length or kind != ZBUF_IDB_TYPE:
            raise ValueRefused(f"Interface Description Block of {length} bytes: it is damaged, or larger than a buffer")
        number = self.interfaces_to_come()
        self.program = extended(&self.programs, self.program, number, program)
        self.instructions = longest(self.program)
        self.guard = extended(&self.guards, self.guard, number, guard)
        self.restricted = self.restricted or has_programs(&self.guards)
        grown = <uint8_t *>realloc(self.pending, self.pending_bytes + length)
        if grown == NULL:
            raise MemoryError
        self.pending = grown
        memcpy(grown + self.pending_bytes, <const char *>block, length)
        self.pending_bytes += length
        self.limit = 0
        self.extend_prologue(block)
        if self.can_write_buffer() and self.zbufs[self.store].length == self.zbufs[self.store].head_bytes:
            self.announce_pending()

    def interfaces_to_come(self):
        """How many interfaces are announced, or will be at the heads of the next buffers."""
        cdef uint32_t at = 0, kind = 0, count = self.announced
        while at < self.pending_bytes:
            at = zbuf_next_block(self.pending, self.pending_bytes, at, &kind)
            count += 1
        return count

    cdef extend_prologue(self, bytes block):
        cdef uint64_t length = self.segment.prologue_bytes
        if self.prologue_full or length + len(block) > self.segment.prologue_room:
            self.prologue_full = True
            return
        memcpy(<uint8_t *>self.segment + self.segment.prologue_offset + length, <const char *>block, len(block))
        zbuf_grow_prologue(self.segment, length + len(block))

    def charge(self, FilterShare share):
        """Have a share of the pump's time pay for the filter; None where nobody has to, as at first.

        While the share is used up, packets are dropped unfiltered. A lossless capture drops none, and charges nobody.
        """
        self.share = share

    def set_filter(self, program not None, bint flush=True):
        """Install a filter program for the packets to come, with a flush (BIOCSETF) or without (BIOCSETFNR).

        Args:
            program: instructions, as compile_filter() makes them, empty to accept everything; or a sequence of such
                programs, one for each interface.
            flush: discard the packets that the old filter let in and that are not assigned yet.

        Raises:
            FilterError: the program is not valid; the old one stays.
        """
        self.need_memory()
        set_programs(&self.programs, program)
        self.program = program
        self.instructions = longest(program)
        self.weighed = False
        if flush:
            self.flush()

    def finish(self):
        """No more packets will come: assign the tail, even while no buffer is free, and tell the readers of the end.

        Packets are taken no more, and readers let in no more. Doing it again does nothing.
        """
        self.need_memory()
        if self.finished:
            return
        if not self.rotate_store() and self.zbufs[self.store].length:
            self.buffer_full()
        self.finished = True
        self.segment.end_sequence = self.next_sequence
        self.publish_ledger()
        zbuf_set_state(self.segment, ZBUF_FINISHED)
        self.wake()

    def abandon(self):
        """Count everything that is buffered as abandoned: the last reader has left, and no other will come."""
        self.need_memory()
        self.reclaim()
        self.sum_up()
        self.counts.abandoned += self.counts.buffered
        self.counts.abandoned_bytes += self.counts.buffered_bytes
        self.zbufs[0].packets = self.zbufs[1].packets = 0
        self.zbufs[0].wire_bytes = self.zbufs[1].wire_bytes = 0

    # ---- statistics -------------------------------------------------------------------------------------------

    cdef void sum_up(self) noexcept nogil:
        """Fill in what of the ledger follows from other counts, and from the zbufs."""
        self.counts.buffered = self.counts.buffered_bytes = 0
        if self.store != NONE:
            self.counts.buffered += self.zbufs[self.store].packets
            self.counts.buffered_bytes += self.zbufs[self.store].wire_bytes
        if self.hold != NONE:
            self.counts.buffered += self.zbufs[self.hold].packets
            self.counts.buffered_bytes += self.zbufs[self.hold].wire_bytes
        self.counts.accepted_bytes = self.counts.received_bytes - self.counts.filtered_bytes

    cdef void publish_ledger(self) noexcept nogil:
        self.unpublished = False
        self.sum_up()
        zbuf_write_ledger(self.segment, &self.counts)

    def ledger(self):
        """The counters as a dict, of packets and of their bytes on the wire. At every call both add up:

        received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered.
        """
        if self.has_memory:
            self.reclaim()
            self.publish_ledger()
        return self.counts

    def slots(self):
        """Which buffer (0 for A, 1 for B) is in which slot, and what they have; for tests and for the curious."""
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
    def held_by_views(self):
        """Whether only views keep the hold, of readers that wait for the store: the next tick() may assign that."""
        return self.only_views_hold()

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


cdef uint32_t longest(program) except *:
    """Instructions of the longest of the programs that set_filter() got."""
    return max(map(len, [program] if isinstance(program, bytes) else program), default=0) // sizeof(bpf_insn)


cdef extended(filter_programs *programs, current, uint32_t number, bytes program):
    """Give interface `number` a program of its own, unless it is that of all others; returns what set_filter() got."""
    if isinstance(current, bytes):
        if program is None or program == current:
            return current
        current = [current] * number
    current = [*current, REFUSE_ALL if program is None else program]
    set_programs(programs, current)
    return current
