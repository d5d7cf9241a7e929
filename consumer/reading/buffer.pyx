"""A buffer that a reader was assigned, its packets in place, and where each of them lies.

Whatever the producer does, nothing outside the mapping is read. Each word of a packet's block that says how long the
packet is, or whose, is loaded once, so that the value that was checked is the value that is used. Bytes that are not
whole blocks of a known interface raise CorruptBuffer.

Whatever the caller does, no memory can be reached from Python after it was given back. A packet of an acknowledged
buffer raises StaleBuffer, and a buffer with a living view (a memoryview, a NumPy array) goes back when the last of its
views is gone.
"""

from operator import index
from sys import intern

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.object cimport PyObject, PyObject_GenericGetAttr
from libc.stdint cimport uint32_t, uint64_t, uint8_t

cimport cython

from zbuf.consumer.reading.blocks cimport next_block
from zbuf.consumer.reading.turn cimport Turn
from zbuf.shared.memory.abi cimport zbuf_header, zbuf_options, zbuf_packet

from zbuf.consumer.reading.copies import PacketCopy, comments_in, flags_in
from zbuf.shared.errors import CorruptBuffer, StaleBuffer
from zbuf.shared.memory.layout import announced

cdef extern from *:
    void zbuf_prefetch "__builtin_prefetch"(const void *at) nogil


def __getattr__(name):
    """INDEX_DTYPE, made when it is first asked for: programs that never ask start without NumPy, which takes 0.1 s.

    One row of Buffer.index(): where a packet's data begins in Buffer.data, its captured and original length in bytes,
    its interface's number, its time in nanoseconds since 1970, the packets lost just before it, and its time as NumPy's
    datetime64. The time is there twice, in eight bytes each: a field that overlaps another one would keep numpy.save()
    and memoryview() from taking the array.
    """
    if name != "INDEX_DTYPE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return index_dtype()


cdef object _INDEX_DTYPE = None


cdef object index_dtype():
    global _INDEX_DTYPE
    if _INDEX_DTYPE is None:
        import numpy
        _INDEX_DTYPE = numpy.dtype(
            [
                ("offset", "<u4"),
                ("caplen", "<u4"),
                ("wirelen", "<u4"),
                ("interface", "<u4"),
                ("time_ns", "<u8"),
                ("dropped", "<u8"),
                ("time", "<M8[ns]"),
            ]
        )
    return _INDEX_DTYPE


cdef struct index_row:
    uint32_t offset
    uint32_t caplen
    uint32_t wirelen
    uint32_t interface_id
    uint64_t time_ns
    uint64_t dropped
    uint64_t time


@cython.no_gc_clear  # its last view needs its turn, in whichever order the garbage collector takes them
@cython.nonecheck(True)  # one that was made by hand, and not by a reader, raises too
cdef class Buffer:
    """One filling of one of the two buffers: whole packet blocks, to be given back with acknowledge().

    It is a bytes-like object of those blocks, and iterates over its packets.
    """

    def __reduce__(self):
        raise TypeError("a buffer can't be copied or pickled: take bytes(buffer.data)")

    def __len__(self):
        return self._packets

    def __repr__(self):
        state = "acknowledged" if self._released else f"{self._packets} packets, {self._length} bytes"
        return f"<zbuf buffer {self._sequence}: {state}>"

    def __iter__(self):
        cdef BufferPackets packets = BufferPackets.__new__(BufferPackets)
        self._check()
        packets._buffer = self
        packets._left = self._packets
        return packets

    @property
    def packets(self):
        """How many packets are in it."""
        return self._packets

    @property
    def sequence(self):
        """Its number in the descriptor's stream of buffers."""
        return self._sequence

    @property
    def dropped_before(self):
        """Packets lost between the buffer before and this one."""
        return self._dropped_before

    @property
    def interfaces(self):
        """How many interfaces are announced: by the prologue, and by the heads of buffers up to this one's."""
        return self._interfaces

    @property
    def head_bytes(self):
        """The bytes of the Interface Description Blocks that it begins with, those of interfaces that appeared."""
        return len(announced(self))

    @property
    def data(self):
        """Its pcapng blocks, most of them Enhanced Packet Blocks, a read-only memoryview; while it lives, the buffer
        stays ours."""
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
        cdef uint32_t count, end = 0
        self._check()
        import numpy
        rows = numpy.empty(self._packets, index_dtype())
        count = fill_index(self, <index_row *><size_t>rows.ctypes.data, &end)
        if count == self._packets and end and end != self._length:
            end = end_of_others(self, end)
        if count != self._packets or end != self._length:
            raise CorruptBuffer(f"buffer {self._sequence}: damaged after {count} packets: its producer is broken")
        return rows

    def totals(self):
        """(packets, captured bytes, bytes on the wire), by a walk over every block that checks it.

        Raises:
            StaleBuffer: it was acknowledged.
            CorruptBuffer: its bytes are not whole packet blocks, or not as many packets as its header says.
        """
        self._check()
        found = self._walk()
        if found[0] != self._packets:
            raise miscounted(self, self._packets - <uint32_t>found[0])
        return found

    cdef tuple _walk(self):
        cdef zbuf_packet packet
        cdef uint32_t offset = 0, following
        cdef uint64_t packets = 0, captured = 0, wire = 0
        while offset < self._length:
            following = next_block(self._blocks, self._length, offset, self._limits, &packet)
            if following == 0:
                raise no_packet(self._sequence, offset)
            offset = following
            if packet.data == NULL:
                break
            packets += 1
            captured += packet.caplen
            wire += packet.wirelen
        return packets, captured, wire

    def acknowledge(self):
        """Give the buffer back to the producer, now; nothing in it can be reached any more. Again does nothing.

        Raises:
            BufferError: a view of it (a memoryview, a NumPy array) is alive.
        """
        if self._exports and not self._released:
            raise BufferError(
                f"buffer {self._sequence} can't be acknowledged: {self._exports} views of it are alive "
                "(memoryview, NumPy array): release them first"
            )
        self._release()

    cdef _release(self):
        """Make it stale, and give it back as soon as no view of it lives."""
        if self._released:
            return
        self._released = True
        self._turn._release(self._which, self._generation, self._exports)

    cdef _check(self):
        if self._released:
            raise StaleBuffer(f"buffer {self._sequence} was acknowledged: use its packets before, or copy them")

    def __getbuffer__(self, Py_buffer *view, int flags):
        self._check()
        PyBuffer_FillInfo(view, self, <void *>self._blocks, self._length, 1, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._view_gone()

    cdef void _view_gone(self) noexcept:
        """A view died: perhaps because of an exception, which must find nothing changed when this is done."""
        cdef PyObject *kind
        cdef PyObject *value
        cdef PyObject *trace
        self._exports -= 1
        if self._released:
            PyErr_Fetch(&kind, &value, &trace)
            self._turn._view_gone(self._which, self._generation, self._exports)
            PyErr_Restore(kind, value, trace)


cdef uint32_t fill_index(Buffer buffer, index_row *row, uint32_t *end) noexcept:
    """Fill a row for each packet; returns how many there were, and sets where the walk ended: 0 where it failed."""
    cdef zbuf_packet packet
    cdef uint32_t offset = 0, count = 0, room = buffer._packets
    while offset < buffer._length and count < room:
        offset = next_block(buffer._blocks, buffer._length, offset, buffer._limits, &packet)
        if offset == 0 or packet.data == NULL:
            break
        row.offset = <uint32_t>(packet.data - buffer._blocks)
        row.caplen = packet.caplen
        row.wirelen = packet.wirelen
        row.interface_id = packet.interface_id
        row.time_ns = packet.time_ns
        row.dropped = packet.dropped
        row.time = packet.time_ns
        row += 1
        count += 1
    end[0] = offset
    return count


cdef uint32_t end_of_others(Buffer buffer, uint32_t offset) noexcept:
    """Where the blocks end that are no packets and begin at `offset`: the buffer's length, unless more follows."""
    cdef zbuf_packet packet
    packet.data = NULL
    cdef uint32_t end = next_block(buffer._blocks, buffer._length, offset, buffer._limits, &packet)
    return end if packet.data == NULL else offset


cdef Buffer make_buffer(Turn turn, uint64_t sequence, uint32_t generation, uint32_t length, uint32_t packets):
    """The buffer of that number, filled as `generation`. The caller has checked its length; the count is only shown."""
    cdef int which = <int>(sequence & 1)
    cdef const zbuf_header *header = turn._headers[which]
    cdef Buffer buffer = Buffer.__new__(Buffer)
    buffer._turn = turn
    buffer._which = which
    buffer._generation = generation
    buffer._blocks = <const uint8_t *>(header + 1)
    buffer._length = length
    buffer._limits = turn._limits
    buffer._cursor = length  # whoever takes a buffer takes its packets
    buffer._packets = packets
    buffer._sequence = sequence
    buffer._dropped_before = header.dropped_before
    buffer._interfaces = turn._limits.interfaces
    return buffer


cdef no_packet(uint64_t sequence, uint32_t offset):
    return CorruptBuffer(f"buffer {sequence}: no whole packet block at byte {offset}: its producer is broken")


cdef str _CAPLEN = intern("caplen"), _TIME_NS = intern("time_ns"), _WIRELEN = intern("wirelen")


@cython.final
@cython.no_gc
@cython.freelist(16)
@cython.nonecheck(True)
cdef class Packet:
    """One packet, in place: a bytes-like object of its captured data. ``bytes(packet)`` copies it.

    ``packet[12:14]`` are some of its bytes, as bytes, and ``packet[23]`` is one of them, an int. It is valid until its
    buffer is acknowledged, and raises StaleBuffer from then on. Its copy() stays valid.
    """

    cdef Buffer _buffer
    cdef zbuf_packet _packet

    def __getattribute__(self, name):
        # Nearly every loop reads these three, and the generic look-up of a property costs more than the rest of the
        # loop. So they are compared by identity first; both sides are interned.
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

    @property
    def options(self):
        """The options of its block, as bytes: pcapng's, section 3.5 of draft-ietf-opsawg-pcapng."""
        self._buffer._check()
        return PyBytes_FromStringAndSize(
            <const char *>zbuf_options(&self._packet), 4 * <Py_ssize_t>self._packet.options_words)

    @property
    def flags(self):
        """All 32 bits of its block's epb_flags: direction, reception type, length of the FCS, link-layer errors."""
        return flags_in(self.options)

    @property
    def comments(self):
        """What somebody remarked on it, a list of str."""
        return comments_in(self.options)

    def copy(self):
        """A PacketCopy: it outlives the buffer, and can be pickled."""
        return PacketCopy(
            bytes(self), self.time_ns, self.wirelen, self.interface, self.dropped, self.direction, self.options)

    def __reduce__(self):
        raise TypeError("a packet in its buffer can't be pickled: take packet.copy(), or bytes(packet)")

    def __len__(self):
        self._buffer._check()
        return self._packet.caplen

    def __getitem__(self, key):
        """A byte as an int, or a slice as bytes, which are a copy: it holds no buffer."""
        self._buffer._check()
        if isinstance(key, slice):
            return slice_of(self._packet.data, self._packet.caplen, key)
        return byte_of(self._packet.data, self._packet.caplen, key)

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


cdef bytes slice_of(const uint8_t *data, Py_ssize_t length, slice key):
    """A copy of some bytes of a packet."""
    cdef Py_ssize_t start, stop, step
    start, stop, step = key.indices(length)
    if step == 1:
        return PyBytes_FromStringAndSize(<const char *>data + start, max(stop - start, 0))
    return PyBytes_FromStringAndSize(<const char *>data, length)[key]


cdef int byte_of(const uint8_t *data, Py_ssize_t length, key) except -1:
    """One byte of a packet."""
    cdef Py_ssize_t at
    try:
        at = index(key)
    except TypeError:
        raise TypeError(f"a packet's index must be an int or a slice, not {type(key).__name__}: {key!r:.60}") from None
    if at < 0:
        at += length
    if not 0 <= at < length:
        raise IndexError(f"byte {key}: the packet has {length} captured bytes")
    return data[at]


@cython.final
@cython.internal
@cython.auto_pickle(False)
@cython.nonecheck(True)
cdef class BufferPackets:
    """The packets of one buffer."""

    cdef Buffer _buffer
    cdef uint32_t _offset
    cdef uint32_t _left             # packets that are still to come

    def __iter__(self):
        return self

    def __next__(self):
        if self._buffer._released:
            self._buffer._check()
        if self._offset < self._buffer._length:
            packet = next_packet(self._buffer, &self._offset, &self._left)
            if packet is not None:
                return packet
        if self._left:
            left, self._left = self._left, 0
            raise miscounted(self._buffer, left)
        raise StopIteration


@cython.final
@cython.internal
@cython.auto_pickle(False)
@cython.nonecheck(True)
cdef class ReaderPackets:
    """The packets of all buffers of a reader, one after the other."""

    cdef object _reader
    cdef Buffer _buffer
    cdef uint32_t _offset
    cdef uint32_t _left             # packets of the buffer that are still to come

    def __iter__(self):
        return self

    def __next__(self):
        while True:
            while self._buffer is None or self._offset >= self._buffer._length:
                self._take_next()
            if self._buffer._released:
                self._buffer._check()
            try:
                packet = next_packet(self._buffer, &self._offset, &self._left)
            finally:
                self._buffer._cursor, self._buffer._cursor_left = self._offset, self._left
            if packet is not None:
                return packet

    cdef _take_next(self):
        """Go on with the next buffer, unless the last one had other than its packets."""
        cdef uint32_t left = self._left
        if left:
            self._left = self._buffer._cursor_left = 0
            raise miscounted(self._buffer, left)
        self._buffer = self._reader.next_buffer()
        if self._buffer is None:
            raise StopIteration
        self._offset, self._left = 0, self._buffer._packets


cdef object packets_from(object reader, Buffer buffer):
    """Iterate over a reader's packets, from where the last iteration stopped in `buffer`; None to take the next one."""
    cdef ReaderPackets packets = ReaderPackets.__new__(ReaderPackets)
    packets._reader = reader
    if buffer is not None and not buffer._released:
        packets._buffer, packets._offset, packets._left = buffer, buffer._cursor, buffer._cursor_left
    return packets


cdef miscounted(Buffer buffer, uint32_t left):
    return CorruptBuffer(
        f"buffer {buffer._sequence}: {<uint32_t>(buffer._packets - left)} packets, where its header says "
        f"{buffer._packets}: its producer is broken"
    )


cdef inline Packet next_packet(Buffer buffer, uint32_t *offset, uint32_t *left):
    """The first packet at or after `offset`, which moves on to what follows; None where no more packets come.

    `left` counts down: what is not 0 at the end are packets that the header promises and the buffer has not, or has too
    many of.
    """
    cdef Packet packet = Packet.__new__(Packet)
    cdef uint32_t at = offset[0]
    cdef uint32_t following = next_block(buffer._blocks, buffer._length, at, buffer._limits, &packet._packet)
    if following == 0:
        offset[0] = buffer._length  # nothing leads past the damage: the walk is over
        left[0] = 0
        raise no_packet(buffer._sequence, at)
    if packet._packet.data == NULL:
        offset[0] = following
        return None
    zbuf_prefetch(buffer._blocks + following)  # the next header comes from another core's cache: fetch it meanwhile
    packet._buffer = buffer
    offset[0] = following
    left[0] -= 1
    return packet
