"""Filters: pcap-filter(7) expressions that libpcap compiles.

A program is the instructions of bpf(4), struct bpf_insn after struct bpf_insn, as bytes.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdio cimport fclose, FILE
from libc.string cimport memset

from zbuf.producer.pcap cimport (
    PCAP_NETMASK_UNKNOWN,
    PCAP_ERRBUF_SIZE,
    PCAP_TSTAMP_PRECISION_NANO,
    bpf_insn,
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


def version():
    """libpcap's own words on its version."""
    return pcap_lib_version().decode()


# Who compiles for the live interfaces of this process, by link type: see compile_as().
_live = {}


def compile_filter(str expression not None, uint32_t linktype):
    """Compile a pcap-filter(7) expression for packets of a link type.

    While this process captures on a live interface of that link type, the program is one for live packets: it knows of
    VLAN tags that the card took off a frame, and of directions, as a capture filter in the kernel does. It means the
    same on the packets of a file.

    Returns:
        The program, for Descriptor.set_filter(); empty where the expression is.

    Raises:
        FilterError: the expression does not compile; the message is libpcap's.
    """
    cdef pcap_t *handle
    if not expression.strip():
        return b""
    for compiler in _live.get(linktype, ()):
        return compiler(expression)
    handle = _open_linktype(linktype)
    try:
        return compile_on(handle, expression)
    finally:
        pcap_close(handle)


def compile_as(uint32_t linktype, compiler):
    """Have compile_filter() use `compiler`, a function of an expression, for this link type."""
    _live.setdefault(linktype, []).append(compiler)


def no_longer_compile_as(uint32_t linktype, compiler):
    """Undo compile_as()."""
    _live[linktype].remove(compiler)


cdef bytes compile_on(pcap_t *handle, str expression):
    """compile_filter() for the packets of an open handle: libpcap knows its link type, and what its kernel can do.

    Other threads run meanwhile, since a long expression takes seconds; none of them may use the handle.
    """
    cdef bpf_program program
    cdef bytes text = expression.encode("utf-8", "surrogateescape")
    cdef const char *at = text
    cdef size_t length = len(text)
    cdef int refused
    if not expression.strip():
        return b""
    if b"\0" in text:
        raise FilterError(f"filter {expression!r}: it has a NUL character")
    with nogil:
        refused = pcap_compile(handle, &program, at, length <= OPTIMIZED_LENGTH, PCAP_NETMASK_UNKNOWN)
    if refused:
        raise FilterError(f"filter '{expression}': {pcap_geterr(handle).decode('utf-8', 'replace')}")
    try:
        return PyBytes_FromStringAndSize(<const char *>program.bf_insns, program.bf_len * sizeof(bpf_insn))
    finally:
        pcap_freecode(&program)


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
