"""A packet that a Python program hands in: its arguments are checked here, and become a struct zbuf_packet."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from zbuf.shared.memory.abi cimport ZBUF_INBOUND, ZBUF_OUTBOUND

from zbuf.shared.errors import ValueRefused

DIRECTIONS = {"inout": 0, "in": ZBUF_INBOUND, "out": ZBUF_OUTBOUND}


def direction_number(direction):
    """The value of zbuf_packet.direction for "in" or "out", and 0 for "inout".

    Raises:
        ValueRefused: it is none of these.
    """
    number = DIRECTIONS.get(direction)
    if number is None:
        raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
    return number


cdef object misfit(time_ns, wirelen, interface, error):
    """The error for a packet of which fill_packet() raised `error`."""
    return ValueRefused(f"packet with time_ns={time_ns!r}, wirelen={wirelen!r}, interface={interface!r}: {error}")


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
