# libpcap's functions that zbuf calls (pcap(3PCAP)), and the LINKTYPE_ of a handle.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.stdio cimport FILE, fclose
from libc.string cimport memcpy

cdef extern from "<stdio.h>" nogil:
    FILE *fdopen(int fd, const char *mode)
    FILE *fmemopen(void *at, size_t size, const char *mode)

cdef extern from "<sys/time.h>" nogil:
    cdef struct timeval:
        int64_t tv_sec
        int64_t tv_usec

cdef extern from "pcap/pcap.h" nogil:
    enum:
        PCAP_ERRBUF_SIZE
        PCAP_TSTAMP_PRECISION_NANO
        PCAP_ERROR_NO_SUCH_DEVICE
        PCAP_ERROR_PERM_DENIED
        PCAP_ERROR_PROMISC_PERM_DENIED
        PCAP_ERROR_IFACE_NOT_UP
        PCAP_D_INOUT
        PCAP_D_IN
        PCAP_D_OUT
    const uint32_t PCAP_NETMASK_UNKNOWN
    ctypedef struct pcap_t:
        pass
    ctypedef struct pcap_dumper_t:
        pass
    cdef struct pcap_pkthdr:
        timeval ts
        uint32_t caplen
        uint32_t len
    cdef struct bpf_insn:
        pass
    cdef struct bpf_program:
        unsigned bf_len
        bpf_insn *bf_insns
    cdef struct pcap_stat:
        unsigned ps_recv
        unsigned ps_drop
        unsigned ps_ifdrop
    ctypedef void (*pcap_handler)(uint8_t *user, const pcap_pkthdr *header, const uint8_t *data) noexcept nogil
    pcap_t *pcap_create(const char *device, char *errbuf)
    int pcap_set_snaplen(pcap_t *p, int snaplen)
    int pcap_set_promisc(pcap_t *p, int promiscuous)
    int pcap_set_timeout(pcap_t *p, int timeout_ms)
    int pcap_set_buffer_size(pcap_t *p, int size)
    int pcap_set_immediate_mode(pcap_t *p, int immediate)
    int pcap_set_tstamp_precision(pcap_t *p, int precision)
    int pcap_get_tstamp_precision(pcap_t *p)
    int pcap_activate(pcap_t *p)
    int pcap_setnonblock(pcap_t *p, int nonblock, char *errbuf)
    int pcap_get_selectable_fd(pcap_t *p)
    int pcap_setdirection(pcap_t *p, int direction)
    int pcap_setfilter(pcap_t *p, bpf_program *program)
    int pcap_dispatch(pcap_t *p, int count, pcap_handler handler, uint8_t *user)
    int pcap_stats(pcap_t *p, pcap_stat *stat)
    const char *pcap_statustostr(int status)
    pcap_t *pcap_fopen_offline_with_tstamp_precision(FILE *file, unsigned precision, char *errbuf)
    int pcap_next_ex(pcap_t *p, pcap_pkthdr **header, const uint8_t **data)
    int pcap_compile(pcap_t *p, bpf_program *program, const char *text, int optimize, uint32_t netmask)
    void pcap_freecode(bpf_program *program)
    int bpf_validate(const bpf_insn *program, int instructions)
    unsigned bpf_filter(const bpf_insn *program, const uint8_t *packet, unsigned wirelen, unsigned buflen)
    pcap_dumper_t *pcap_dump_fopen(pcap_t *p, FILE *file)
    void pcap_dump_close(pcap_dumper_t *dumper)
    FILE *pcap_file(pcap_t *p)
    char *pcap_geterr(pcap_t *p)
    const char *pcap_lib_version()
    void pcap_close(pcap_t *p)

cdef struct pcap_file_header_t:     # of a classic pcap file, draft-ietf-opsawg-pcap section 4
    uint32_t magic
    uint16_t major, minor
    int32_t zone
    uint32_t accuracy, snaplen, linktype


cdef inline int64_t linktype_of(pcap_t *p) noexcept:
    """The LINKTYPE_ of an open file, read off the header that libpcap would write for it; -1 where it has none."""
    cdef pcap_file_header_t header
    cdef char image[64]
    cdef FILE *file = fmemopen(image, sizeof(image), "wb")
    cdef pcap_dumper_t *dumper = NULL if file == NULL else pcap_dump_fopen(p, file)
    if dumper == NULL:
        if file != NULL:
            fclose(file)
        return -1
    pcap_dump_close(dumper)
    memcpy(&header, image, sizeof(header))
    return header.linktype & 0xFFFF  # the rest tells the length of the FCS, which stays with the file
