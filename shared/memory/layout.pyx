"""Page 0 of a segment: its producer writes it, and everybody who attaches to it checks it."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcmp, memcpy, memset

from zbuf.shared.memory.abi cimport (
    ZBUF_MAX_BYTES,
    ZBUF_ABI,
    ZBUF_CLOSED,
    ZBUF_EPB_TYPE,
    ZBUF_FINISHED,
    ZBUF_FORMING,
    ZBUF_IDB_TYPE,
    ZBUF_MAGIC,
    ZBUF_MAX_CAPLEN,
    ZBUF_OPEN,
    ZBUF_PAGE_BYTES,
    zbuf_assigned,
    zbuf_header,
    zbuf_ledger,
    zbuf_next_block,
    zbuf_next_packet,
    zbuf_packet,
    zbuf_prologue_bytes,
    zbuf_read_ledger,
    zbuf_segment,
    zbuf_set_state,
    zbuf_state,
    zbuf_stored,
)

from zbuf.shared.errors import SegmentError, ValueRefused

ABI = ZBUF_ABI
PAGE_BYTES = ZBUF_PAGE_BYTES
MAX_BUFFER_BYTES = ZBUF_MAX_BYTES
MAX_CAPLEN = ZBUF_MAX_CAPLEN
HEADER_BYTES = sizeof(zbuf_header)
ACK_BYTES = ZBUF_PAGE_BYTES
DEFAULT_BUFFER_BYTES = 512 * ZBUF_PAGE_BYTES

cdef enum:
    PROLOGUE_MAX_BYTES = 16 << 20
    LEDGER_TRIES = 1000             # while the producer writes it; one that died doing so never ends


cdef class Layout:
    """Where everything lies in one segment; all sizes and offsets are in bytes.

    Args:
        producer: the producer's name.
        descriptor: the descriptor's.
        epoch: a random number, the same for all segments of one run of a producer.
        buffer_bytes: the size of each of the two buffers, header included; whole pages.
        prologue_bytes: the size of the pcapng prologue.
        growth_bytes: how much the prologue may grow by, for interfaces that appear later.
        snaplen: bytes kept of each packet.
    """

    cdef readonly str producer
    cdef readonly str descriptor
    cdef readonly object epoch
    cdef readonly uint64_t segment_bytes
    cdef readonly uint64_t prologue_offset
    cdef readonly uint64_t prologue_bytes
    cdef readonly uint64_t prologue_room
    cdef readonly tuple buffer_offsets
    cdef readonly uint64_t buffer_bytes
    cdef readonly uint32_t snaplen
    cdef readonly uint32_t state

    def __init__(self, producer, descriptor, epoch, buffer_bytes, prologue_bytes, snaplen, growth_bytes=0):
        check_buffer_bytes(buffer_bytes)
        room = -(-(prologue_bytes + growth_bytes) // PAGE_BYTES) * PAGE_BYTES
        first = PAGE_BYTES + room
        self.producer = producer
        self.descriptor = descriptor
        self.epoch = epoch
        self.prologue_offset = PAGE_BYTES
        self.prologue_bytes = prologue_bytes
        self.prologue_room = room
        self.buffer_offsets = (first, first + buffer_bytes)
        self.buffer_bytes = buffer_bytes
        self.segment_bytes = first + 2 * buffer_bytes
        self.snaplen = snaplen
        self.state = ZBUF_FORMING


def check_buffer_bytes(size):
    """bpf(4)'s rules for a buffer's size: whole pages, at least one, at most MAX_BUFFER_BYTES."""
    if size <= 0:
        raise ValueRefused(f"buffer size {size}: it must be more than zero")
    if size % PAGE_BYTES:
        raise ValueRefused(f"buffer size {size} is not a whole number of {PAGE_BYTES}-byte pages")
    if size > MAX_BUFFER_BYTES:
        raise ValueRefused(f"buffer size {size} is more than the maximum, {MAX_BUFFER_BYTES} bytes")


def write_layout(memory, Layout layout not None):
    """Write page 0 into `memory`, a writable mapping of a whole new segment, and leave its state FORMING."""
    cdef Py_buffer view
    cdef zbuf_segment *segment
    cdef bytes producer = layout.producer.encode(), descriptor = layout.descriptor.encode()
    PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
    try:
        if <uint64_t>view.len < layout.segment_bytes:
            raise SegmentError(f"mapping of {view.len} bytes: {layout.segment_bytes} needed")
        segment = <zbuf_segment *>view.buf
        memset(segment, 0, sizeof(zbuf_segment))
        segment.abi = ZBUF_ABI
        segment.epoch = layout.epoch
        segment.segment_bytes = layout.segment_bytes
        segment.prologue_offset = layout.prologue_offset
        segment.prologue_bytes = layout.prologue_bytes
        segment.prologue_room = layout.prologue_room
        segment.zbuf_offset[0], segment.zbuf_offset[1] = layout.buffer_offsets
        segment.zbuf_bytes = layout.buffer_bytes
        segment.snaplen = layout.snaplen
        memcpy(segment.producer, <const char *>producer, min(<size_t>len(producer), sizeof(segment.producer) - 1))
        memcpy(segment.descriptor, <const char *>descriptor,
               min(<size_t>len(descriptor), sizeof(segment.descriptor) - 1))
        memcpy(segment.magic, ZBUF_MAGIC, sizeof(segment.magic))
    finally:
        PyBuffer_Release(&view)


def open_segment(memory):
    """Let readers in: the state of the segment mapped at `memory` becomes OPEN."""
    cdef Py_buffer view
    PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE)
    try:
        check_room(&view)
        zbuf_set_state(<zbuf_segment *>view.buf, ZBUF_OPEN)
    finally:
        PyBuffer_Release(&view)


def read_layout(memory, bint closed_too=False):
    """Check page 0 of the segment mapped at `memory` and return its Layout.

    The values are copied before they are checked. Everything that the Layout describes lies inside the mapping.

    Raises:
        SegmentError: naming what is wrong: not a segment, of another ABI, still being made, too short,
            finished or closed (unless `closed_too`), or with parts outside it.
    """
    cdef Py_buffer view
    cdef zbuf_segment copy
    cdef uint32_t state = ZBUF_FORMING
    cdef Py_ssize_t size
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    size = view.len
    if size >= <Py_ssize_t>sizeof(zbuf_segment):
        state = zbuf_state(<const zbuf_segment *>view.buf)
        memcpy(&copy, view.buf, sizeof(zbuf_segment))
        copy.prologue_bytes = zbuf_prologue_bytes(<const zbuf_segment *>view.buf)
    PyBuffer_Release(&view)
    if size < <Py_ssize_t>ZBUF_PAGE_BYTES:
        raise SegmentError(f"segment of {size} bytes: too short to be one, its producer may have died making it")
    _check_identity(&copy, state, closed_too)
    _check_parts(&copy, <uint64_t>size)
    return _layout_of(&copy, state)


cdef _check_identity(const zbuf_segment *copy, uint32_t state, bint closed_too):
    cdef bytes magic = copy.magic[:8]
    if magic == bytes(8):
        raise SegmentError("segment without a header: its producer is still making it, or died doing so")
    if memcmp(copy.magic, ZBUF_MAGIC, 8) != 0:
        raise SegmentError(f"foreign segment: it begins with {magic!r}, not with zbuf's magic")
    if copy.abi != ZBUF_ABI:
        raise SegmentError(f"segment of ABI {copy.abi}, this is ABI {ABI}: use the same version of zbuf on both sides")
    if state == ZBUF_FORMING:
        raise SegmentError("segment not open yet: its producer is still making it, or died doing so")
    if state > ZBUF_CLOSED:
        raise SegmentError(f"segment in unknown state {state}")
    if state >= ZBUF_FINISHED and not closed_too:
        raise SegmentError("segment closed: its producer has ended")


cdef check_room(const Py_buffer *view):
    if view.len < <Py_ssize_t>sizeof(zbuf_segment):
        raise SegmentError(f"mapping of {view.len} bytes: too short to be a segment")


cdef bint _inside(uint64_t offset, uint64_t length, uint64_t size):
    return offset >= ZBUF_PAGE_BYTES and offset <= size and length <= size - offset


cdef _check_parts(const zbuf_segment *copy, uint64_t size):
    cdef uint64_t first = copy.zbuf_offset[0], second = copy.zbuf_offset[1], length = copy.zbuf_bytes
    if copy.segment_bytes > size:
        raise SegmentError(f"segment cut short: {size} bytes of {copy.segment_bytes}")
    if (copy.prologue_bytes > copy.prologue_room or copy.prologue_room > PROLOGUE_MAX_BYTES
            or not _inside(copy.prologue_offset, copy.prologue_room, size)):
        raise SegmentError(f"corrupt segment: prologue of {copy.prologue_bytes} bytes at {copy.prologue_offset}")
    if length == 0 or length % ZBUF_PAGE_BYTES or length > ZBUF_MAX_BYTES:
        raise SegmentError(f"corrupt segment: buffers of {length} bytes")
    if (first % ZBUF_PAGE_BYTES or second % ZBUF_PAGE_BYTES or not _inside(first, length, size)
            or not _inside(second, length, size) or first + length > second):
        raise SegmentError(f"corrupt segment: buffers of {length} bytes at {first} and {second}")


cdef str _text(const char *at, size_t room):
    return at[:room].split(b"\0", 1)[0].decode("utf-8", "replace")


cdef Layout _layout_of(const zbuf_segment *copy, uint32_t state):
    cdef Layout layout = Layout.__new__(Layout)
    layout.producer = _text(copy.producer, sizeof(copy.producer))
    layout.descriptor = _text(copy.descriptor, sizeof(copy.descriptor))
    layout.epoch = copy.epoch
    layout.segment_bytes = copy.segment_bytes
    layout.prologue_offset = copy.prologue_offset
    layout.prologue_bytes = copy.prologue_bytes
    layout.prologue_room = copy.prologue_room
    layout.buffer_offsets = (copy.zbuf_offset[0], copy.zbuf_offset[1])
    layout.buffer_bytes = copy.zbuf_bytes
    layout.snaplen = copy.snaplen
    layout.state = state
    return layout


def read_ledger(memory):
    """The ledger on page 0 of the segment mapped at `memory`, as a dict: a whole one, exact once its producer is done."""
    cdef Py_buffer view
    cdef zbuf_ledger ledger
    cdef int _try
    memset(&ledger, 0, sizeof(ledger))
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    try:
        check_room(&view)
        for _try in range(LEDGER_TRIES):
            if zbuf_read_ledger(<const zbuf_segment *>view.buf, &ledger):
                break
    finally:
        PyBuffer_Release(&view)
    return ledger


def unread_blocks(memory, Layout layout not None):
    """What was not acknowledged when the producer of a segment died, in the order in which it was appended.

    Args:
        memory: a mapping of the whole segment, whose producer is dead.
        layout: what read_layout() said of it.

    Returns:
        A list of (offset, length_bytes, packets, damaged_bytes, interfaces), one for each buffer with such blocks;
        offsets are from the start of the segment.  What is behind damage is no part of length_bytes, but of
        damaged_bytes.  `interfaces` are announced up to and including the head of that buffer.
    """
    cdef Py_buffer view
    cdef const zbuf_header *header
    cdef const uint8_t *base
    cdef uint32_t gen, length
    found = []
    PyObject_GetBuffer(memory, &view, PyBUF_SIMPLE)
    try:
        base = <const uint8_t *>view.buf
        for offset in layout.buffer_offsets:
            header = <const zbuf_header *>(base + <uint64_t>offset)
            gen = zbuf_assigned(header)
            if gen != header.user_gen:
                order, length = header.sequence, header.kernel_len
            else:
                order, length = 2 ** 64, zbuf_stored(header, gen + 1)  # the store comes last
            length = <uint32_t>min(<uint64_t>length, layout.buffer_bytes - HEADER_BYTES)
            whole, packets = _whole_blocks(<const uint8_t *>(header + 1), length & ~<uint32_t>3)
            if length:
                found.append((order, offset + HEADER_BYTES, whole, packets, length - whole, header.interfaces))
    finally:
        PyBuffer_Release(&view)
    return [entry[1:] for entry in sorted(found)]


cdef tuple _whole_blocks(const uint8_t *blocks, uint32_t length):
    """How far whole blocks go, packets that are whole and blocks of other types, and how many packets there are."""
    cdef zbuf_packet packet
    cdef uint32_t offset = 0, following, packets = 0
    while offset < length:
        following = zbuf_next_packet(blocks, length, offset, &packet)
        if following == 0:
            return _other_blocks(blocks, length, offset), packets
        offset = following
        packets += packet.data != NULL
    return offset, packets


cdef uint32_t _other_blocks(const uint8_t *blocks, uint32_t length, uint32_t offset):
    """How far the blocks go that are no packets, from `offset` on: what is damaged comes behind them."""
    cdef uint32_t kind = 0, following
    while offset < length:
        following = zbuf_next_block(blocks, length, offset, &kind)
        if following == 0 or kind == ZBUF_EPB_TYPE:
            break
        offset = following
    return offset


def announced(blocks):
    """The Interface Description Blocks at the head of a buffer's blocks, as bytes.

    Args:
        blocks: the buffer's, or any bytes-like object that begins as they do.
    """
    cdef Py_buffer view
    cdef uint32_t offset = 0, following, kind = 0
    PyObject_GetBuffer(blocks, &view, PyBUF_SIMPLE)
    try:
        while offset < <uint32_t>view.len:
            following = zbuf_next_block(<const uint8_t *>view.buf, <uint32_t>view.len, offset, &kind)
            if following == 0 or kind != ZBUF_IDB_TYPE:
                break
            offset = following
        return (<const char *>view.buf)[:offset]
    finally:
        PyBuffer_Release(&view)
