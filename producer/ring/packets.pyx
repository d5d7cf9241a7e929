"""A packet that a Python program hands in: its arguments are checked here, and become a struct zbuf_packet."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memcpy, memset

from zbuf.shared.memory.abi cimport ZBUF_INBOUND, ZBUF_MAX_CAPLEN, ZBUF_OUTBOUND, zbuf_packet

from zbuf.shared.errors import ValueRefused

DIRECTIONS = {"inout": 0, "in": ZBUF_INBOUND, "out": ZBUF_OUTBOUND}


def direction_number(direction):
    """The value of zbuf_packet.direction for "in" or "out", and 0 for "inout".

    Raises:
        ValueRefused: it is none of these.
    """
    if direction not in DIRECTIONS:
        raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
    return DIRECTIONS[direction]


cdef int describe_packet(zbuf_packet *packet, Py_ssize_t captured_bytes, time_ns, wirelen, interface,
                         uint32_t direction) except -1:
    """Fill in everything about a packet except where its data is.

    Raises:
        ValueRefused: a value does not fit its field.
    """
    memset(packet, 0, sizeof(zbuf_packet))
    try:
        packet.time_ns = time_ns
        packet.wirelen = captured_bytes if wirelen is None else wirelen
        packet.interface_id = interface
    except (OverflowError, TypeError) as error:
        raise ValueRefused(
            f"packet with time_ns={time_ns!r}, wirelen={wirelen!r}, interface={interface!r}: {error}"
        ) from None
    packet.caplen = <uint32_t>min(captured_bytes, ZBUF_MAX_CAPLEN + 1)  # one byte too many, so that the cut is counted
    packet.direction = direction & 3
    return 0


cdef int gather(uint8_t *place, size_t length_bytes, fragments) except -1:
    """Copy the first `length_bytes` of several bytes-like objects to `place`, one behind the other."""
    cdef Py_buffer view
    cdef size_t some
    for fragment in fragments:
        PyObject_GetBuffer(fragment, &view, PyBUF_SIMPLE)
        some = min(length_bytes, <size_t>view.len)
        memcpy(place, view.buf, some)
        PyBuffer_Release(&view)
        place += some
        length_bytes -= some
    return 0
