# A live interface, and how libpcap lays its packets out; see libpcap_interface.pyx.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from zbuf.producer.pcap cimport pcap_pkthdr, pcap_stat, pcap_t
from zbuf.shared.memory.abi cimport zbuf_packet

cdef extern from "zbuf/producer/sources/live/kernel_ring.h" nogil:
    cdef struct ring_view:
        uint32_t unit_ns
        uint32_t cooked_bytes
        uint32_t tag_at

ctypedef void (*ring_look)(const ring_view *view, const pcap_pkthdr *captured, const uint8_t *data,
                           zbuf_packet *packet) noexcept nogil


cdef class LiveInterface:
    cdef pcap_t *pcap
    cdef ring_view view
    cdef ring_look look             # NULL where nothing is known but what libpcap says
    cdef bint waits_first           # libpcap may be asked for packets only once poll(2) says that there are some
    cdef uint64_t _received, _dropped, _dropped_by_interface    # 64-bit, though libpcap counts in 32
    cdef pcap_stat _last
    cdef bint _immediate
    cdef readonly str name
    cdef readonly str shown
    cdef readonly uint32_t linktype
    cdef readonly list warnings
    cdef str error(self)
