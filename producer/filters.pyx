"""Filters: pcap-filter(7) expressions that libpcap compiles, and the programs that come of them, checked.

A program is the instructions of bpf(4), struct bpf_insn after struct bpf_insn, as bytes.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdio cimport fclose, FILE
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from zbuf.producer.pcap cimport (
    PCAP_NETMASK_UNKNOWN,
    PCAP_ERRBUF_SIZE,
    PCAP_TSTAMP_PRECISION_NANO,
    bpf_insn,
    bpf_program,
    bpf_validate,
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

cdef extern from "<sys/prctl.h>" nogil:
    enum:
        PR_SET_PDEATHSIG
    int prctl(int option, unsigned long value)

cdef extern from "<signal.h>" nogil:
    enum:
        SIGKILL

cdef extern from "zbuf/producer/packet_filter.h" nogil:
    bint can_answer_loads(const bpf_insn *program, uint32_t instructions)
    bint packet_filter_set(packet_filter *filter, bpf_insn *program, uint32_t instructions)

cdef enum:
    OPTIMIZED_LENGTH = 1024         # the time that libpcap's optimizer takes grows with the cube of this

REFUSE_ALL = bytes([6, 0, 0, 0, 0, 0, 0, 0])
"""The program that accepts no packet: ret #0."""

# All instructions that there are, by class: ld, ldx, st and stx, alu, jmp, ret, misc.
INSTRUCTIONS = frozenset(
    [0x00, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x60, 0x80]
    + [0x01, 0x61, 0x81, 0xB1]
    + [0x02, 0x03]
    + [operation | operand | 0x04 for operation in range(0x00, 0xB0, 0x10) for operand in (0, 8)
       if operation | operand != 0x88]
    + [0x05]
    + [operation | operand | 0x05 for operation in range(0x10, 0x50, 0x10) for operand in (0, 8)]
    + [0x06, 0x16]
    + [0x07, 0x87]
)


def version():
    """The version of libpcap, in its own words."""
    return pcap_lib_version().decode()


def end_with_parent():
    """Have the kernel end this process with the one that forked it."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)


# Who compiles for the live interfaces of this process, by link type: see compile_as().
_live = {}

# ---- compiling ----------------------------------------------------------------------------------------------------


def compile_filter(str expression not None, uint32_t linktype, *, bint optimize=False):
    """Compile a pcap-filter(7) expression for packets of a link type.

    This is for expressions of our own user: compiling takes seconds where an expression wants it to, and asks name
    servers for hosts.  Those of others are compiled in a process for this: zbuf.producer.compiling.

    While this process captures on a live interface of that link type, the program is one for live packets: it knows of
    VLAN tags that the card took off a frame, and of directions, as a capture filter in the kernel does. It means the
    same on the packets of a file.

    Args:
        expression: what packets must match.
        linktype: the LINKTYPE_ of the packets.
        optimize: have libpcap's optimizer work on long expressions, too, for as long as it takes.

    Returns:
        The program, for Descriptor.set_filter(); empty where the expression is.

    Raises:
        FilterError: the expression does not compile; the message is libpcap's.
    """
    cdef pcap_t *handle
    if not expression.strip():
        return b""
    for compiler in _live.get(linktype, ()):
        return compiler(expression, optimize=optimize)
    handle = open_linktype(linktype)
    try:
        return compile_on(handle, expression, optimize)
    finally:
        pcap_close(handle)


def compile_as(uint32_t linktype, compiler):
    """Have compile_filter() use `compiler`, a function of an expression and of `optimize`, for this link type."""
    _live.setdefault(linktype, []).append(compiler)


def no_longer_compile_as(uint32_t linktype, compiler):
    """Undo compile_as()."""
    _live[linktype].remove(compiler)


cdef bytes compile_on(pcap_t *handle, str expression, bint optimize):
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
        refused = pcap_compile(
            handle, &program, at, optimize or length <= OPTIMIZED_LENGTH, PCAP_NETMASK_UNKNOWN)
    if refused:
        raise FilterError(f"filter '{expression}': {pcap_geterr(handle).decode('utf-8', 'replace')}")
    try:
        return PyBytes_FromStringAndSize(<const char *>program.bf_insns, program.bf_len * sizeof(bpf_insn))
    finally:
        pcap_freecode(&program)


cdef pcap_t *open_linktype(uint32_t linktype) except NULL:
    """A handle for packets of one LINKTYPE_: libpcap opens an empty file of that type.

    pcap_open_dead() wants a DLT_ number, which differs for some types, and only libpcap's reader of files maps one to
    the other.
    """
    cdef pcap_file_header_t header
    cdef char errbuf[PCAP_ERRBUF_SIZE]
    cdef FILE *file
    cdef pcap_t *handle
    memset(&header, 0, sizeof(header))
    header.magic, header.major, header.minor = 0xA1B2C3D4, 2, 4
    header.snaplen, header.linktype = ZBUF_MAX_CAPLEN, linktype
    file = fmemopen(&header, sizeof(header), "rb")
    if file == NULL:
        raise MemoryError
    handle = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, errbuf)
    if handle == NULL:
        fclose(file)
        raise FilterError(f"link type {linktype}: {errbuf.decode('utf-8', 'replace')}")
    return handle


# ---- programs -----------------------------------------------------------------------------------------------------


cdef bpf_insn *copy_program(bytes program) except? NULL:
    """A copy of a program for bpf_filter(), to be freed by the caller; NULL for an empty one.

    Raises:
        FilterError: the program is not valid.
    """
    cdef size_t size = len(program)
    cdef bpf_insn *copy
    if size == 0:
        return NULL
    if not is_valid_program(program):
        raise FilterError(f"filter program of {size} bytes is not a valid one")
    copy = <bpf_insn *>malloc(size)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char *>program, size)
    return copy


cdef int set_program(packet_filter *filter, bytes program) except -1:
    """Have a filter run `program` from now on; an empty one accepts everything.

    Raises:
        FilterError: the program is not valid; the filter keeps its old one.
    """
    cdef packet_filter made
    cdef bpf_insn *copy = copy_program(program)
    memset(&made, 0, sizeof(made))
    if copy != NULL and not packet_filter_set(&made, copy, <uint32_t>(len(program) // sizeof(bpf_insn))):
        free(copy)
        raise MemoryError
    packet_filter_free(filter)
    filter[0] = made
    return 0


cdef bint is_valid_program(bytes program) except -1:
    """Whether packet_filter_run() can run a program: bpf_validate() says so, and every instruction of it exists.

    bpf_validate() alone is not enough: it lets instructions pass at which bpf_filter() aborts the process.
    """
    cdef size_t size = len(program)
    if size % sizeof(bpf_insn):
        return False
    cdef const bpf_insn *instructions = <const bpf_insn *><const char *>program
    cdef int count = <int>(size // sizeof(bpf_insn))
    codes = {int.from_bytes(program[at:at + 2], "little") for at in range(0, size, sizeof(bpf_insn))}
    return (codes <= INSTRUCTIONS and bpf_validate(instructions, count) != 0
            and can_answer_loads(instructions, <uint32_t>count))
