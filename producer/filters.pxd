# Filters in native code; see filters.pyx.

from libc.stdint cimport uint32_t

from zbuf.producer.pcap cimport bpf_insn, pcap_t
from zbuf.shared.memory.abi cimport zbuf_packet

cdef extern from "zbuf/producer/packet_filter.h" nogil:
    cdef struct packet_filter:      # all zeros: a filter that accepts everything
        bpf_insn *program
    void packet_filter_free(packet_filter *filter)
    uint32_t packet_filter_run(const packet_filter *filter, const zbuf_packet *packet)
    uint32_t ordinary_filter_run(const zbuf_packet *packet)

cdef bytes compile_on(pcap_t *handle, str expression, bint optimize)
cdef int set_program(packet_filter *filter, bytes program) except -1
