# A packet that a Python program hands in; see packets.pyx.

from libc.stdint cimport uint32_t, uint8_t
from libc.string cimport memset

from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN, zbuf_packet

cdef int gather(uint8_t *place, size_t length_bytes, fragments) except -1
cdef object misfit(time_ns, wirelen, interface, error)


cdef inline int fill_packet(zbuf_packet *packet, Py_ssize_t captured_bytes, time_ns, wirelen, interface,
                            uint32_t direction) except -1:
    """Fill in everything about a packet except where its data is; inline, since every packet of Python's comes here.

    OverflowError and TypeError, for a value that does not fit its field, are the caller's to turn into misfit().
    """
    memset(packet, 0, sizeof(zbuf_packet))
    packet.time_ns = time_ns
    packet.wirelen = captured_bytes if wirelen is None else wirelen
    packet.interface_id = interface
    packet.caplen = <uint32_t>min(captured_bytes, <Py_ssize_t>ZBUF_MAX_CAPLEN + 1)  # one byte more shows the cut
    packet.direction = direction & 3
    return 0


cdef inline int describe_packet(zbuf_packet *packet, Py_ssize_t captured_bytes, time_ns, wirelen, interface,
                                uint32_t direction) except -1:
    """fill_packet(), or ValueRefused."""
    try:
        fill_packet(packet, captured_bytes, time_ns, wirelen, interface, direction)
    except (OverflowError, TypeError) as error:
        raise misfit(time_ns, wirelen, interface, error) from None
    return 0
