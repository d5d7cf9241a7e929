"""The packets of a buffer as records of a classic pcap file, with stamps in nanoseconds; and where their blocks are.

Source: draft-ietf-opsawg-pcap, section 5.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.string cimport memcpy

from zbuf.consumer.reading.blocks cimport next_block
from zbuf.consumer.reading.buffer cimport Buffer
from zbuf.shared.memory.abi cimport zbuf_packet

from array import array

from zbuf.shared.errors import CorruptBuffer

cdef enum:
    BLOCK_HEAD_BYTES = 28           # of an Enhanced Packet Block, before its data
    RECORD_BYTES = 16               # of a record, before its data
    SECOND_NS = 1000000000

cdef uint64_t LAST_SECOND = 0xffffffff

cdef struct record:
    uint32_t seconds
    uint32_t nanoseconds
    uint32_t caplen
    uint32_t wirelen


cdef damaged(Buffer buffer, uint32_t number):
    return CorruptBuffer(f"buffer {buffer.sequence}: damaged after {number} packets: its producer is broken")


cdef uint32_t take(Buffer buffer, uint32_t offset, uint32_t number, zbuf_packet *packet) except 0:
    """Read packet `number`, which begins at `offset` or later; returns where its block ends."""
    offset = next_block(buffer._blocks, buffer._length, offset, buffer._limits, packet)
    if offset == 0 or packet.data == NULL:
        raise damaged(buffer, number)
    return offset


def block_edges(Buffer buffer):
    """Where each packet's block begins, then where the last one ends: an array of 32-bit numbers."""
    edges = array("I", bytes(4 * (buffer._packets + 1)))
    cdef uint32_t[::1] into = edges
    cdef uint32_t offset = 0, number
    cdef zbuf_packet packet
    for number in range(buffer._packets):
        offset = take(buffer, offset, number, &packet)
        into[number] = <uint32_t>(packet.data - buffer._blocks) - BLOCK_HEAD_BYTES
    into[buffer._packets] = buffer._length
    return edges


def losses(Buffer buffer):
    """The packets before which others were lost: a list of (number of the packet, how many were lost)."""
    cdef uint32_t offset = 0, number
    cdef zbuf_packet packet
    found = []
    for number in range(buffer._packets):
        offset = take(buffer, offset, number, &packet)
        if packet.dropped:
            found.append((number, packet.dropped))
    return found


def pcap_records(Buffer buffer):
    """The records of all packets; where each begins, then where the last one ends; how many have too late a time.

    A time after 2106, for which 32 bits of seconds are too few, becomes the last time that a record can have.
    """
    edges = array("I", bytes(4 * (buffer._packets + 1)))
    cdef uint32_t[::1] begins = edges
    cdef bytes records = PyBytes_FromStringAndSize(NULL, records_bytes(buffer, begins))
    cdef uint8_t *into = <uint8_t *>PyBytes_AS_STRING(records)
    cdef uint32_t offset = 0, number, late = 0
    cdef zbuf_packet packet
    for number in range(buffer._packets):
        offset = take(buffer, offset, number, &packet)
        if begins[number] + RECORD_BYTES + packet.caplen != begins[number + 1]:  # the producer wrote over it meanwhile
            raise damaged(buffer, number)
        late += packet.time_ns // SECOND_NS > LAST_SECOND
        write_record(into + begins[number], &packet)
    return records, edges, late


cdef Py_ssize_t records_bytes(Buffer buffer, uint32_t[::1] begins) except -1:
    """Fill where each record begins; returns the bytes of all."""
    cdef uint32_t offset = 0, number
    cdef zbuf_packet packet
    begins[0] = 0
    for number in range(buffer._packets):
        offset = take(buffer, offset, number, &packet)
        begins[number + 1] = begins[number] + RECORD_BYTES + packet.caplen
    return begins[buffer._packets]


cdef void write_record(uint8_t *into, const zbuf_packet *packet) noexcept nogil:
    cdef uint64_t seconds = packet.time_ns // SECOND_NS
    cdef record head
    head.seconds = <uint32_t>seconds
    head.nanoseconds = <uint32_t>(packet.time_ns - seconds * SECOND_NS)
    if seconds > LAST_SECOND:
        head.seconds = <uint32_t>LAST_SECOND
        head.nanoseconds = SECOND_NS - 1
    head.caplen = packet.caplen
    head.wirelen = packet.wirelen
    memcpy(into, &head, RECORD_BYTES)
    memcpy(into + RECORD_BYTES, packet.data, packet.caplen)
