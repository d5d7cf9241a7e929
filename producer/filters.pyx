"""Filters: pcap-filter(7) expressions, compiled by libpcap."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdio cimport fclose, FILE
from libc.string cimport memset

from zbuf.producer.pcap cimport (
    PCAP_NETMASK_UNKNOWN,
    PCAP_ERRBUF_SIZE,
    PCAP_TSTAMP_PRECISION_NANO,
    bpf_program,
    fclose,
    fmemopen,
    pcap_close,
    pcap_compile,
    pcap_file_header_t,
    pcap_fopen_offline_with_tstamp_precision,
    pcap_freecode,
    pcap_geterr,
    pcap_lib_version,
    pcap_t,
)
from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN

from zbuf.shared.errors import FilterError

cdef enum:
    OPTIMIZED_LENGTH = 1024         # the time that libpcap's optimizer takes grows with the cube of this
    INSTRUCTION_BYTES = 8           # of struct bpf_insn


def version():
    """libpcap's own words on its version."""
    return pcap_lib_version().decode()


def compile_filter(str expression not None, uint32_t linktype):
    """Compile a pcap-filter(7) expression for packets of a link type.

    Returns:
        The program's instructions (struct bpf_insn), for Descriptor.set_filter(); none where the expression is empty.

    Raises:
        FilterError: with libpcap's message.
    """
    cdef bpf_program program
    cdef pcap_t *p
    cdef bytes text = expression.encode("utf-8", "surrogateescape")
    cdef int refused
    if not expression.strip():
        return b""
    if b"\0" in text:
        raise FilterError(f"filter {expression!r}: it has a NUL character")
    p = _open_linktype(linktype)
    cdef const char *at = text
    cdef size_t length = len(text)
    with nogil:
        refused = pcap_compile(p, &program, at, length <= OPTIMIZED_LENGTH, PCAP_NETMASK_UNKNOWN)
    try:
        if refused:
            raise FilterError(f"filter '{expression}': {pcap_geterr(p).decode('utf-8', 'replace')}")
        instructions = PyBytes_FromStringAndSize(<const char *>program.bf_insns, program.bf_len * INSTRUCTION_BYTES)
        pcap_freecode(&program)
        return instructions
    finally:
        pcap_close(p)


cdef pcap_t *_open_linktype(uint32_t linktype) except NULL:
    """A handle for packets of one LINKTYPE_: what libpcap makes of an empty file of that type.

    pcap_open_dead() wants a DLT_ number, which differs for some types, and only a file's reader knows the mapping.
    """
    cdef pcap_file_header_t header
    cdef char errbuf[PCAP_ERRBUF_SIZE]
    cdef FILE *file
    cdef pcap_t *p
    memset(&header, 0, sizeof(header))
    header.magic, header.major, header.minor = 0xA1B2C3D4, 2, 4
    header.snaplen, header.linktype = ZBUF_MAX_CAPLEN, linktype
    file = fmemopen(&header, sizeof(header), "rb")
    if file == NULL:
        raise MemoryError
    p = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, errbuf)
    if p == NULL:
        fclose(file)
        raise FilterError(f"link type {linktype}: {errbuf.decode('utf-8', 'replace')}")
    return p
