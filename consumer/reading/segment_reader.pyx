"""The reader's half of the protocol: wait for a buffer, walk its packets, acknowledge it.

Guarantees, whatever the producer does: nothing outside the mapping is read, and each word of a packet's block that says
how much of it there is, or whose, is loaded once, so that what was checked is what is used; what is no whole block of a
known interface is CorruptBuffer.  Guarantees, whatever the caller does: no memory is reachable from Python
after it was given back.  A packet of an acknowledged buffer raises StaleBuffer, and a buffer with a living view (a
memoryview, a NumPy array) is not given back until the last of them is gone.

While the producer is ahead, the next buffer is one load away and no system call is made.
"""

from sys import intern

import numpy
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject, PyObject_GenericGetAttr
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

cimport cython

from zbuf.shared.memory.abi cimport (
    ZBUF_CLOSED,
    ZBUF_EPB_BYTES,
    zbuf_ack,
    zbuf_acknowledge,
    zbuf_assigned,
    zbuf_header,
    zbuf_next_packet,
    zbuf_packet,
    zbuf_segment,
    zbuf_sleep,
    zbuf_state,
    zbuf_stored,
    zbuf_wake,
)
from zbuf.shared.memory.spin cimport LOOKS_PER_CLOCK, is_raised, lower_flag, now_ns, raise_flag, spin_pause

from zbuf.consumer.reading.copies import PacketCopy
from zbuf.shared.errors import CorruptBuffer, StaleBuffer, ValueRefused
from zbuf.shared.memory.layout import HEADER_BYTES

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
    int c_poll "poll"(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
    ssize_t recv(int fd, void *into, size_t length, int flags)

cdef extern from *:
    void zbuf_prefetch "__builtin_prefetch"(const void *at) nogil

INDEX_DTYPE = numpy.dtype(
    [
        ("offset", "<u4"),
        ("caplen", "<u4"),
        ("wirelen", "<u4"),
        ("interface", "<u4"),
        ("time_ns", "<u8"),
        ("dropped", "<u8"),
    ]
)
"""One row of Buffer.index(): where a packet's data begins in Buffer.data, its captured and original length in bytes,
its interface's number, its time in nanoseconds since 1970, and the packets lost just before it."""

cdef struct held_views:         # in a struct of their own, or the garbage collector would clear them unreleased
    Py_buffer segment
    Py_buffer ack_page

cdef struct index_row:
    uint32_t offset
    uint32_t caplen
    uint32_t wirelen
    uint32_t interface_id
    uint64_t time_ns
    uint64_t dropped

cdef enum:
    LONGEST_POLL_MS = 250       # a signal that comes just before a poll does not end it
    LONGEST_WAIT_S = 1 << 30    # decades; and a clock of nanoseconds has room for them

cdef enum:                      # what a wait came to
    READY
    NOT_YET
    CLOSED
    DIED


cdef class SegmentReader:
    """One reader of a segment: takes its buffers strictly in turn.

    Args:
        segment: a read-only mapping of the segment.
        layout: what read_layout() said of it.
        ack_page: a writable mapping of this reader's ack page.
        doorbell: the reader's end of its doorbell; the caller closes it.
        sequence: the number of the first buffer that it will be assigned.
        spin_ns: how long to look for a buffer before going to sleep; negative for never to sleep.
        interfaces: those that packets may come from; None where that is not known.
    """

    cdef held_views _held
    cdef bint _mapped
    cdef const zbuf_segment *_segment
    cdef const zbuf_header *_headers[2]
    cdef zbuf_ack *_ack
    cdef zbuf_ack _unheard          # where a forked child acknowledges: the page is its parent's
    cdef bint _disowned
    cdef uint32_t _capacity
    cdef uint32_t _snaplen
    cdef uint32_t _interfaces       # how many there are
    cdef uint32_t _user_gen[2]      # as acknowledged, or to be once the views of that buffer are gone
    cdef Buffer _current
    cdef uint32_t _cursor           # where in it the next iteration over the reader begins
    cdef uint32_t _views[2]         # living views of a buffer that was moved on from
    cdef int _doorbell
    cdef int64_t _spin_ns
    cdef uint32_t _state            # of the wait that found the end: CLOSED or DIED
    cdef bint _finished
    cdef bint _announced            # that it sleeps, by a next_buffer() that came back without a buffer
    cdef int _hung_up               # set by another thread for a reader that never makes a system call
    cdef int _interrupted           # set by a signal handler or another thread
    cdef readonly uint64_t sequence
    """The number of the next buffer to take."""
    cdef readonly uint64_t sleeps
    """Times that it slept for a buffer."""

    def __cinit__(self, segment, layout, ack_page, *, int doorbell, uint64_t sequence, int64_t spin_ns,
                  interfaces=None, **_others):
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
        self._snaplen = layout.snaplen
        self._interfaces = 0xFFFFFFFF if interfaces is None else len(interfaces)
        self._doorbell = doorbell
        self._spin_ns = spin_ns
        self.sequence = sequence

    def __reduce__(self):
        raise TypeError("a reader can't be copied or pickled: connect() in each process")

    def __dealloc__(self):
        if self._mapped:
            PyBuffer_Release(&self._held.segment)
            PyBuffer_Release(&self._held.ack_page)

    def next_buffer(self, timeout=None):
        """Acknowledge the last buffer and wait for the next.

        Where a view of the last one lives (a memoryview, a NumPy array), it is acknowledged the moment that view dies.

        Args:
            timeout: how long to wait, in seconds; None for as long as it takes, 0 to look once.

        Returns:
            A Buffer; None when the time is over or interrupt() was called, or at the end of the stream, which
            `finished` tells.

        Raises:
            BufferError: the buffer whose turn it is can't come, since views of its last filling are alive.
            CorruptBuffer: the producer assigned a length that can't be.
            ValueRefused: this process was forked from the one whose reader it is.
        """
        cdef int found
        cdef int which = <int>(self.sequence & 1)
        cdef int64_t timeout_ns = -1 if timeout is None else <int64_t>(min(max(timeout, 0), LONGEST_WAIT_S) * 1e9)
        self._move_on()
        if self._disowned:
            raise ValueRefused("this reader is that of the process that forked this one: connect() in each process")
        if self._finished:
            return None
        if self._views[which]:
            raise BufferError(
                f"the next buffer is one that {self._views[which]} of your own views still hold: "
                "release them (memoryview, NumPy array), or copy what you keep"
            )
        found = READY if self._look(which) else self._wait(which, timeout_ns)
        if found == READY and self._announced:
            self._announced = False
            zbuf_wake(self._ack)
        if found == READY and self._headers[which].sequence != self.sequence:
            found = DIED  # the producer has gone on without this reader: it was taken off
        if found == READY:
            return self._take(which)
        if found == NOT_YET:
            return None
        return self._end(found, which)

    cdef _move_on(self):
        cdef Buffer last = self._current
        self._current = None
        if last is not None and not last._released:
            last._release()

    cdef bint _look(self, int which) noexcept nogil:
        return zbuf_assigned(self._headers[which]) != self._user_gen[which]

    cdef Buffer _take(self, int which):
        cdef const zbuf_header *header = self._headers[which]
        return self._make_buffer(which, zbuf_assigned(header), header.kernel_len, header.packets)

    cdef Buffer _make_buffer(self, int which, uint32_t generation, uint32_t length, uint32_t packets):
        """The header's values are the producer's: what bounds an access is checked here, the rest is only shown."""
        cdef Buffer buffer
        if length > self._capacity or length % 4 or packets > length // ZBUF_EPB_BYTES:
            raise CorruptBuffer(
                f"buffer {self.sequence}: {packets} packets in {length} bytes, where it holds {self._capacity}: "
                "its producer is broken"
            )
        buffer = Buffer.__new__(Buffer)
        buffer._reader = self
        buffer._which = which
        buffer._generation = generation
        buffer._blocks = <const uint8_t *>(self._headers[which] + 1)
        buffer._length = length
        buffer.packets = packets
        buffer.sequence = self.sequence
        buffer.dropped_before = self._headers[which].dropped_before
        self._current = buffer
        self._cursor = length  # who takes a buffer takes its packets
        self.sequence += 1
        return buffer

    cdef Buffer _end(self, int found, int which):
        """No buffer will be assigned any more; a killed producer may have left a part of one."""
        cdef uint32_t generation = self._user_gen[which] + 1, length
        self._finished = True
        self._state = found
        if found == CLOSED or not self._is_dead():
            return None
        length = zbuf_stored(self._headers[which], generation)
        if length == 0 or length > self._capacity or length % 4:
            return None
        packets = self._walk(<const uint8_t *>(self._headers[which] + 1), length, self.sequence)[0]
        return self._make_buffer(which, generation, length, packets)

    def _is_dead(self):
        """Whether a connection that hung up did so because the producer died; the one who knows overrides it."""
        return True

    # ---- walking ----------------------------------------------------------------------------------------------

    cdef inline uint32_t _next(self, const uint8_t *blocks, uint32_t length, uint32_t offset,
                               zbuf_packet *packet) noexcept nogil:
        """zbuf_next_packet(), which knows no prologue, and what the prologue says."""
        cdef uint32_t following = zbuf_next_packet(blocks, length, offset, packet)
        if following and (packet.caplen > self._snaplen or packet.interface_id >= self._interfaces):
            return 0
        return following

    cdef tuple _walk(self, const uint8_t *blocks, uint32_t length, uint64_t sequence):
        cdef zbuf_packet packet
        cdef uint32_t offset = 0, following
        cdef uint64_t packets = 0, captured = 0, wire = 0
        while offset < length:
            following = self._next(blocks, length, offset, &packet)
            if following == 0:
                raise _no_packet(sequence, offset)
            offset = following
            packets += 1
            captured += packet.caplen
            wire += packet.wirelen
        return packets, captured, wire

    # ---- waiting ----------------------------------------------------------------------------------------------

    cdef int _wait(self, int which, int64_t timeout_ns) except -1:
        cdef int found
        cdef int64_t deadline = -1 if timeout_ns < 0 else now_ns() + timeout_ns
        cdef int64_t spin_until = deadline if self._spin_ns < 0 else now_ns() + self._spin_ns
        if 0 <= deadline < spin_until:
            spin_until = deadline
        while True:
            with nogil:
                found = self._spin(which, spin_until)
                if found == NOT_YET and self._spin_ns >= 0:
                    found = self._sleep(which, deadline)
            if found != NOT_YET or self._announced or (self._spin_ns < 0 and 0 <= deadline <= now_ns()):
                return found
            PyErr_CheckSignals()
            if is_raised(&self._interrupted):
                lower_flag(&self._interrupted)
                return NOT_YET

    cdef int _ended(self, int which) noexcept nogil:
        """NOT_YET, or what ended the stream; asked only where no buffer was there, and looks once more after it."""
        cdef int found = NOT_YET
        cdef bint hung_up = is_raised(&self._hung_up)  # before the state: a clean end sets that before it hangs up
        if zbuf_state(self._segment) == ZBUF_CLOSED:
            found = CLOSED
        elif hung_up:
            found = DIED
        return READY if found != NOT_YET and self._look(which) else found

    cdef int _spin(self, int which, int64_t until) noexcept nogil:
        cdef int _nth, found
        cdef int64_t started = now_ns()
        while True:
            for _nth in range(LOOKS_PER_CLOCK):
                if self._look(which):
                    return READY
                spin_pause()
            found = self._ended(which)
            if found != NOT_YET:
                return found
            if 0 <= until <= now_ns() or (until < 0 and now_ns() - started > 100_000_000):
                return NOT_YET  # the second is a pause for Python's signal handlers

    cdef int _sleep(self, int which, int64_t deadline) noexcept nogil:
        """Sleep until the doorbell rings: announce it, look once more, then poll (see SYNC sleep in zbuf.h)."""
        cdef int found = READY
        cdef int rung
        cdef int64_t left_ms = -1
        cdef pollfd bell
        bell.fd = self._doorbell
        bell.events = POLLIN
        self._silence()
        zbuf_sleep(self._ack)
        if not self._look(which):
            found = self._ended(which)
            if found == NOT_YET:
                if deadline >= 0:
                    left_ms = max(<int64_t>0, (deadline - now_ns() + 999_999) // 1_000_000)
                self.sleeps += 1
                rung = c_poll(&bell, 1, LONGEST_POLL_MS if left_ms < 0 else <int>min(left_ms, LONGEST_POLL_MS))
                found = self._answer(which, rung, bell.revents)
        self._announced = found == NOT_YET and 0 <= deadline <= now_ns()  # so that fileno() becomes readable
        if not self._announced:
            zbuf_wake(self._ack)
        return found

    cdef int _answer(self, int which, int rung, short events) noexcept nogil:
        if rung < 0 and errno != EINTR:
            return DIED
        if rung > 0 and events & (POLLHUP | POLLERR | POLLNVAL):
            raise_flag(&self._hung_up)
        return READY if self._look(which) else self._ended(which)

    cdef void _silence(self) noexcept nogil:
        """Take off the doorbell what has rung; before a sleep, not after it, where it would delay the packet."""
        cdef char rings[64]
        # The producer has this end too, and could make it a blocking one: so it is said each time.
        while recv(self._doorbell, rings, sizeof(rings), MSG_DONTWAIT) == sizeof(rings):
            pass

    def interrupt(self):
        """Have a wait for a buffer end without one: that which goes on, or the next; from any thread or signal handler.

        next_buffer() returns None then, and an iteration ends, though the stream goes on. A wait in a signal's own
        thread ends at once, another within a quarter of a second. A buffer that is there is given all the same.
        """
        raise_flag(&self._interrupted)

    def _note_hang_up(self):
        """Told by a thread that watches the doorbell of a reader that spins."""
        raise_flag(&self._hung_up)

    # ---- what it says of itself -------------------------------------------------------------------------------

    @property
    def finished(self):
        """Whether the stream has ended, and everything in it was taken."""
        return self._finished

    @property
    def _closed_cleanly(self):
        return self._state == CLOSED

    @property
    def holds_views(self):
        """Whether any view (memoryview, NumPy array) of a buffer is alive."""
        return bool(self._views[0] or self._views[1] or (self._current is not None and self._current._exports))

    def _finish(self):
        """Give back what is held, views permitting, and take no more."""
        self._move_on()
        self._finished = True

    def _disown(self):
        """In a forked child: whatever happens to buffers and views here, those of the parent stay the parent's."""
        self._ack = &self._unheard
        self._disowned = True
        self._finish()

    def _views_gone(self):
        """Called when the last view of a buffer that was moved on from is gone; for subclasses."""

    def __iter__(self):
        """Iterate over the packets, zero-copy: each is valid until its buffer is acknowledged, which moving on does.

        It goes on where the iteration before was left, by break for one.
        """
        cdef ReaderPackets packets = ReaderPackets.__new__(ReaderPackets)
        packets._reader = self
        if self._current is not None and not self._current._released:
            packets._buffer, packets._offset = self._current, self._cursor
        return packets

    def buffers(self):
        """Iterate over the buffers, each valid until the next is taken; ends with the stream."""
        while (buffer := self.next_buffer()) is not None:
            yield buffer


@cython.no_gc_clear  # the last view of it to go needs its reader, in whichever order they are collected
@cython.nonecheck(True)  # one made by hand, not by a reader, raises too
cdef class Buffer:
    """One filling of one of the two buffers: whole packet blocks, to be given back with acknowledge().

    It is a bytes-like object of those blocks, and iterates over its packets.
    """

    cdef SegmentReader _reader
    cdef int _which
    cdef uint32_t _generation
    cdef const uint8_t *_blocks
    cdef uint32_t _length
    cdef uint32_t _exports
    cdef bint _released
    cdef readonly uint32_t packets
    """How many packets are in it."""
    cdef readonly uint64_t sequence
    """Its number in the descriptor's stream of buffers."""
    cdef readonly uint64_t dropped_before
    """Packets lost between the buffer before and this one."""

    def __reduce__(self):
        raise TypeError("a buffer can't be copied or pickled: take bytes(buffer.data)")

    def __len__(self):
        return self.packets

    def __repr__(self):
        state = "acknowledged" if self._released else f"{self.packets} packets, {self._length} bytes"
        return f"<zbuf buffer {self.sequence}: {state}>"

    def __iter__(self):
        cdef BufferPackets packets = BufferPackets.__new__(BufferPackets)
        self._check()
        packets._buffer = self
        return packets

    @property
    def data(self):
        """Its pcapng Enhanced Packet Blocks, a read-only memoryview; while it lives, the buffer stays ours."""
        return memoryview(self)

    @property
    def acknowledged(self):
        """Whether it was given back, or will be the moment that its last view dies."""
        return self._released

    def index(self):
        """Where each packet is: a new NumPy array of INDEX_DTYPE, one row a packet, that outlives the buffer.

        ``buffer.data[row["offset"]:row["offset"] + row["caplen"]]`` is a packet's data.

        Raises:
            StaleBuffer: it was acknowledged.
            CorruptBuffer: its bytes are not whole packet blocks.
        """
        cdef zbuf_packet packet
        cdef uint32_t offset = 0, count = 0, room
        cdef index_row *row
        self._check()
        room = self.packets
        rows = numpy.empty(room, INDEX_DTYPE)
        row = <index_row *><size_t>rows.ctypes.data
        while offset < self._length and count < room:
            offset = self._reader._next(self._blocks, self._length, offset, &packet)
            if offset == 0:
                break
            row.offset = <uint32_t>(packet.data - self._blocks)
            row.caplen = packet.caplen
            row.wirelen = packet.wirelen
            row.interface_id = packet.interface_id
            row.time_ns = packet.time_ns
            row.dropped = packet.dropped
            row += 1
            count += 1
        if count != room or offset != self._length:
            raise _corrupt(self.sequence, count)
        return rows

    def totals(self):
        """(packets, captured bytes, bytes on the wire), by a walk over every block that checks it.

        Raises:
            StaleBuffer: it was acknowledged.
            CorruptBuffer: its bytes are not whole packet blocks.
        """
        self._check()
        return self._reader._walk(self._blocks, self._length, self.sequence)

    def acknowledge(self):
        """Give the buffer back to the producer, now; nothing in it can be reached any more. Again does nothing.

        Raises:
            BufferError: a view of it (a memoryview, a NumPy array) is alive.
        """
        if self._exports and not self._released:
            raise BufferError(
                f"buffer {self.sequence} can't be acknowledged: {self._exports} views of it are alive "
                "(memoryview, NumPy array): release them first"
            )
        self._release()

    cdef _release(self):
        """Make it stale, and give it back as soon as no view of it lives."""
        if self._released:
            return
        self._released = True
        self._reader._views[self._which] = self._exports
        if not self._exports:
            self._give_back()

    cdef void _give_back(self):
        self._reader._user_gen[self._which] = self._generation
        zbuf_acknowledge(self._reader._ack, self._which, self._generation)

    cdef _check(self):
        if self._released:
            raise StaleBuffer(f"buffer {self.sequence} was acknowledged: use its packets before, or copy them")

    def __getbuffer__(self, Py_buffer *view, int flags):
        self._check()
        PyBuffer_FillInfo(view, self, <void *>self._blocks, self._length, 1, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._view_gone()

    cdef _view_gone(self):
        self._exports -= 1
        if not self._released:
            return
        self._reader._views[self._which] = self._exports
        if not self._exports:
            self._give_back()
            self._reader._views_gone()


cdef str _CAPLEN = intern("caplen"), _TIME_NS = intern("time_ns"), _WIRELEN = intern("wirelen")


@cython.final
@cython.no_gc
@cython.freelist(16)
@cython.nonecheck(True)
cdef class Packet:
    """One packet, in place: a bytes-like object of its captured data. ``bytes(packet)`` copies it.

    It is valid until its buffer is acknowledged, and raises StaleBuffer from then on; copy() is not.
    """

    cdef Buffer _buffer
    cdef zbuf_packet _packet

    def __getattribute__(self, name):
        # The generic look-up of a property costs more than all else that a loop over packets does: these names, which
        # nearly every loop reads, are compared by identity first (they are interned on both sides).
        if not self._buffer._released:
            if <PyObject *>name == <PyObject *>_CAPLEN:
                return self._packet.caplen
            if <PyObject *>name == <PyObject *>_TIME_NS:
                return self._packet.time_ns
            if <PyObject *>name == <PyObject *>_WIRELEN:
                return self._packet.wirelen
        return PyObject_GenericGetAttr(self, name)

    @property
    def time_ns(self):
        """When it was captured, in nanoseconds since 1970-01-01 00:00 UTC."""
        if self._buffer._released:
            self._buffer._check()
        return self._packet.time_ns

    @property
    def caplen(self):
        """The bytes captured of it."""
        if self._buffer._released:
            self._buffer._check()
        return self._packet.caplen

    @property
    def wirelen(self):
        """The bytes that it had on the wire."""
        if self._buffer._released:
            self._buffer._check()
        return self._packet.wirelen

    @property
    def interface(self):
        """The number of its interface among the reader's `interfaces`."""
        self._buffer._check()
        return self._packet.interface_id

    @property
    def dropped(self):
        """Packets lost just before it."""
        self._buffer._check()
        return self._packet.dropped

    @property
    def direction(self):
        """"in" or "out"; "inout" where it is not known."""
        self._buffer._check()
        return ("inout", "in", "out", "inout")[self._packet.direction]

    @property
    def data(self):
        """Its captured bytes, a read-only memoryview; its buffer can't be acknowledged while that lives."""
        return memoryview(self)

    def copy(self):
        """A PacketCopy: it outlives the buffer, and can be pickled."""
        return PacketCopy(bytes(self), self.time_ns, self.wirelen, self.interface, self.dropped, self.direction)

    def __reduce__(self):
        raise TypeError("a packet in its buffer can't be pickled: take packet.copy(), or bytes(packet)")

    def __len__(self):
        self._buffer._check()
        return self._packet.caplen

    def __bytes__(self):
        self._buffer._check()
        return PyBytes_FromStringAndSize(<const char *>self._packet.data, self._packet.caplen)

    def __repr__(self):
        if self._buffer._released:
            return "<zbuf packet: stale>"
        return f"<zbuf packet: {self.caplen} of {self.wirelen} bytes at {self.time_ns} ns>"

    def __getbuffer__(self, Py_buffer *view, int flags):
        self._buffer._check()
        PyBuffer_FillInfo(view, self, <void *>self._packet.data, self._packet.caplen, 1, flags)
        self._buffer._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._buffer._view_gone()


@cython.final
@cython.internal
@cython.auto_pickle(False)
@cython.nonecheck(True)
cdef class BufferPackets:
    """The packets of one buffer."""

    cdef Buffer _buffer
    cdef uint32_t _offset

    def __iter__(self):
        return self

    def __next__(self):
        if self._buffer._released:
            self._buffer._check()
        if self._offset >= self._buffer._length:
            raise StopIteration
        return _next_packet(self._buffer, &self._offset)


@cython.final
@cython.internal
@cython.auto_pickle(False)
@cython.nonecheck(True)
cdef class ReaderPackets:
    """The packets of all buffers of a reader, one after the other."""

    cdef SegmentReader _reader
    cdef Buffer _buffer
    cdef uint32_t _offset

    def __iter__(self):
        return self

    def __next__(self):
        while self._buffer is None or self._offset >= self._buffer._length:
            self._buffer = self._reader.next_buffer()
            self._offset = 0
            if self._buffer is None:
                raise StopIteration
        if self._buffer._released:
            self._buffer._check()
        try:
            return _next_packet(self._buffer, &self._offset)
        finally:
            self._reader._cursor = self._offset


cdef inline Packet _next_packet(Buffer buffer, uint32_t *offset):
    cdef Packet packet = Packet.__new__(Packet)
    cdef uint32_t at = offset[0]
    cdef uint32_t following = buffer._reader._next(buffer._blocks, buffer._length, at, &packet._packet)
    if following == 0:
        offset[0] = buffer._length  # no way leads past the damage: the walk is over
        raise _no_packet(buffer.sequence, at)
    zbuf_prefetch(buffer._blocks + following)  # the next header comes from another core's cache: fetch it meanwhile
    packet._buffer = buffer
    offset[0] = following
    return packet


cdef _no_packet(uint64_t sequence, uint32_t offset):
    return CorruptBuffer(f"buffer {sequence}: no whole packet block at byte {offset}: its producer is broken")


cdef _corrupt(uint64_t sequence, uint32_t packets):
    return CorruptBuffer(f"buffer {sequence}: damaged behind {packets} packets: its producer is broken")
