from zbuf.producer.pcap cimport pcap_t

cdef bytes compile_on(pcap_t *handle, str expression)
