# A packet that a Python program hands in; see packets.pyx.

from libc.stdint cimport uint32_t, uint8_t

from zbuf.shared.memory.abi cimport zbuf_packet

cdef int describe_packet(zbuf_packet *packet, Py_ssize_t captured_bytes, time_ns, wirelen, interface,
                         uint32_t direction) except -1
cdef int gather(uint8_t *place, size_t length_bytes, fragments) except -1
