# Filters in native code; see filters.pyx.

from zbuf.producer.pcap cimport bpf_insn, pcap_t

cdef bytes compile_on(pcap_t *handle, str expression)
cdef bpf_insn *copy_program(bytes program) except? NULL
