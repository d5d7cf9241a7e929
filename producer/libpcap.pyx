# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What zbuf asks of libpcap: compile filters, read capture files."""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdio cimport _IOFBF, ftell, setvbuf
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cimport cython

from zbuf.shared.errors import CaptureFileError, FilterError

include "../shared/abi.pxi"
include "packets.pxi"
include "pcap.pxi"
include "sizes.pxi"
include "times.pxi"

cdef enum:
    BATCH_PACKETS = 256
    OPTIMIZED_LENGTH = 1024         # the time that libpcap's optimizer takes grows with the cube of this
    INSTRUCTION_BYTES = 8           # of struct bpf_insn
    READ_BUFFER_BYTES = 1 << 20

cdef size_t ARENA_BYTES = 16 << 20


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


@cython.final
cdef class CaptureFile:
    """A capture file, read once from its beginning to its end; it is a packet_source.

    Args:
        fd: a file descriptor of it, a pipe for one; it is closed with this object.
        name: what messages call it.
        interface: the interface number that its packets get.

    Raises:
        CaptureFileError: it is empty, or libpcap takes it for no capture.
    """

    cdef pcap_t *_pcap
    cdef str _name
    cdef uint32_t _interface
    cdef zbuf_packet _batch[BATCH_PACKETS]
    cdef uint8_t *_arena
    cdef packet_source _source
    cdef readonly uint32_t linktype
    cdef readonly uint64_t packets
    """Read so far."""
    cdef readonly str damage
    """Why reading stopped before the end, or None; what is read by then is whole."""

    def __cinit__(self, int fd, str name not None, uint32_t interface=0):
        cdef char errbuf[PCAP_ERRBUF_SIZE]
        cdef FILE *file = fdopen(fd, "rb")
        cdef int64_t linktype
        self._name = name
        self._interface = interface
        self._source.self = <void *>self
        self._source.next = <int (*)(void *, const zbuf_packet **) noexcept nogil>_next_of_file
        if file == NULL:
            os.close(fd)
            raise CaptureFileError(f"{name}: it can't be read")
        setvbuf(file, NULL, _IOFBF, READ_BUFFER_BYTES)
        with nogil:
            self._pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, errbuf)
        if self._pcap == NULL:
            fclose(file)
            raise CaptureFileError(f"{name}: not a capture file: {errbuf.decode('utf-8', 'replace')}")
        linktype = linktype_of(self._pcap)
        if linktype < 0:
            raise CaptureFileError(f"{name}: its link type has no number in capture files")
        self.linktype = <uint32_t>linktype
        self._arena = <uint8_t *>malloc(BATCH_PACKETS * 4096 + ZBUF_MAX_CAPLEN + 1)
        if self._arena == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.close()
        free(self._arena)

    def close(self):
        """Close the file."""
        if self._pcap != NULL:
            pcap_close(self._pcap)
            self._pcap = NULL

    def capsule(self):
        """Its packet_source, for a pump; valid while this object lives."""
        return PyCapsule_New(&self._source, "zbuf.packet_source", NULL)

    def check(self):
        """Nothing to raise: damage ends the file, and is told by `damage`."""

    cdef int read(self, zbuf_packet *packet) noexcept nogil:
        """The next packet, whose data is good until the next call; 0 at the end, or where the file is damaged."""
        cdef pcap_pkthdr *header
        cdef const uint8_t *data
        cdef int status = -2 if self._pcap == NULL else pcap_next_ex(self._pcap, &header, &data)
        if status == -1:
            with gil:
                self._note_damage()
        if status != 1:
            return 0
        memset(packet, 0, sizeof(zbuf_packet))
        packet.time_ns = unsigned_seconds(header.ts.tv_sec) * 1_000_000_000 + <uint64_t>header.ts.tv_usec
        packet.caplen = min(header.caplen, ZBUF_MAX_CAPLEN + 1)  # one byte too many, so that the cut is counted
        packet.wirelen = header.len
        packet.interface_id = self._interface
        packet.data = data
        self.packets += 1
        return 1

    cdef _note_damage(self):
        cdef long offset = ftell(pcap_file(self._pcap))
        why = pcap_geterr(self._pcap).decode("utf-8", "replace")
        where = "" if offset < 0 else f", before byte {offset}"
        self.damage = f"{self._name}: damaged after {self.packets} whole packets{where}: {why}"
        self.close()

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef int count = 0
        cdef size_t used = 0
        cdef zbuf_packet *packet
        while count < BATCH_PACKETS and used <= BATCH_PACKETS * 4096:
            packet = &self._batch[count]
            if not self.read(packet):
                break
            memcpy(self._arena + used, packet.data, packet.caplen)
            packet.data = self._arena + used
            used += packet.caplen
            count += 1
        batch[0] = self._batch
        return count


cdef uint64_t unsigned_seconds(int64_t seconds) noexcept nogil:
    """The seconds of a classic pcap file are unsigned (draft-ietf-opsawg-pcap, section 5): they end in 2106.

    libpcap 1.10 sign-extends them from files in the machine's own byte order, and not from others.
    """
    return <uint64_t>seconds + (<uint64_t>(seconds < 0) << 32)


cdef int _next_of_file(CaptureFile self, const zbuf_packet **batch) noexcept nogil:
    return self.next(batch)


@cython.final
cdef class PacketStore:
    """Packets in memory, to be pumped any number of times; it is a packet_source.

    On each pass their times go on where the one before ended, see times.pxi; rewind() brings the first ones back.
    """

    cdef zbuf_packet *_packets
    cdef size_t _count, _room
    cdef uint8_t **_arenas
    cdef size_t _arena_count, _arena_used
    cdef size_t _at
    cdef uint64_t _passes           # to be given, this one included
    cdef uint64_t _pass
    cdef pass_times _times
    cdef size_counts _sizes
    cdef uint64_t _shift_before     # that of the pass before, which packets from _at on still have
    cdef uint32_t _longest          # captured bytes of a packet
    cdef object _rewriting
    cdef packet_rewriter *_rewriter
    cdef zbuf_packet *_copies       # a batch that was rewritten
    cdef uint8_t *_copied
    cdef packet_source _source
    cdef readonly uint64_t captured_bytes

    def __cinit__(self):
        self._source.self = <void *>self
        self._source.next = <int (*)(void *, const zbuf_packet **) noexcept nogil>_next_of_store
        self._arena_used = ARENA_BYTES

    def __dealloc__(self):
        cdef size_t at
        for at in range(self._arena_count):
            free(self._arenas[at])
        free(self._arenas)
        free(self._packets)
        free(self._copies)
        free(self._copied)

    def __len__(self):
        return self._count

    @property
    def sizes(self):
        """Packets of each class of sizes.pxi, and the bytes of all on the wire."""
        return list(self._sizes.classes), self._sizes.wire_bytes

    def load(self, source not None, size_t packets):
        """Read `packets` more, or somewhat more than that, from a native source; returns False at its end."""
        cdef packet_source *native = <packet_source *>PyCapsule_GetPointer(source.capsule(), "zbuf.packet_source")
        cdef const zbuf_packet *batch
        cdef size_t wanted = self._count + packets
        cdef int count = 1
        cdef bint room = True
        with nogil:
            while count > 0 and room and self._count < wanted:
                count = native.next(native.self, &batch)
                room = self.add_all(batch, count)
        if not room:
            raise MemoryError
        if count < 0:
            source.check()
        return count > 0

    def rewind(self, uint64_t passes, rewriter=None):
        """Have the source begin anew, and give everything `passes` times.

        Args:
            passes: how often.
            rewriter: an object whose capsule() is a packet_rewriter, for what is given after the first pass.
        """
        cdef size_t at
        for at in range(self._count):
            if self._packets[at].time_ns:
                self._packets[at].time_ns -= self._times.shift if at < self._at else self._shift_before
        self._times.shift = self._shift_before = 0
        self._at = self._pass = 0
        self._passes = passes
        self._rewriting = rewriter
        self._rewriter = NULL
        if rewriter is not None:
            self._prepare_copies()
            self._rewriter = <packet_rewriter *>PyCapsule_GetPointer(rewriter.capsule(), "zbuf.packet_rewriter")

    cdef _prepare_copies(self):
        """Room for a batch of the largest packets; the kernel gives memory for what is touched of it."""
        free(self._copies)
        free(self._copied)
        self._copies = <zbuf_packet *>malloc(BATCH_PACKETS * sizeof(zbuf_packet))
        self._copied = <uint8_t *>malloc(<size_t>BATCH_PACKETS * (self._longest + 8))
        if self._copies == NULL or self._copied == NULL:
            raise MemoryError

    def capsule(self):
        """Its packet_source, for a pump; valid while this object lives."""
        return PyCapsule_New(&self._source, "zbuf.packet_source", NULL)

    def check(self):
        """Nothing to raise: it can't fail."""

    cdef bint add_all(self, const zbuf_packet *packets, int count) noexcept nogil:
        cdef int at
        for at in range(count):
            if not self.add(&packets[at]):
                return False
        return True

    cdef bint add(self, const zbuf_packet *packet) noexcept nogil:
        cdef uint8_t *place
        if self._count == self._room and not self.grow():
            return False
        place = self.allocate(packet.caplen)
        if place == NULL:
            return False
        memcpy(place, packet.data, packet.caplen)
        self._packets[self._count] = packet[0]
        self._packets[self._count].data = place
        self._count += 1
        self.captured_bytes += packet.caplen
        self._longest = max(self._longest, packet.caplen)
        note_time(&self._times, packet.time_ns)
        note_size(&self._sizes, packet.wirelen)
        return True

    cdef bint grow(self) noexcept nogil:
        cdef size_t room = max(<size_t>1024, 2 * self._room)
        cdef zbuf_packet *grown = <zbuf_packet *>realloc(self._packets, room * sizeof(zbuf_packet))
        if grown == NULL:
            return False
        self._packets = grown
        self._room = room
        return True

    cdef uint8_t *allocate(self, size_t size) noexcept nogil:
        cdef uint8_t **grown
        cdef uint8_t *place
        if self._arena_count == 0 or self._arena_used + size > ARENA_BYTES:
            grown = <uint8_t **>realloc(self._arenas, (self._arena_count + 1) * sizeof(uint8_t *))
            if grown == NULL:
                return NULL
            self._arenas = grown
            grown[self._arena_count] = <uint8_t *>malloc(ARENA_BYTES)
            if grown[self._arena_count] == NULL:
                return NULL
            self._arena_count += 1
            self._arena_used = 0
        place = self._arenas[self._arena_count - 1] + self._arena_used
        self._arena_used += (size + 15) & ~<size_t>15
        return place

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef size_t count
        if self._at == self._count:
            if self._passes <= 1 or self._count == 0:
                return 0
            self.wrap()
        elif self._passes == 0:
            return 0
        count = min(<size_t>BATCH_PACKETS, self._count - self._at)
        batch[0] = self._packets + self._at
        self.shift(count)
        if self._rewriter != NULL and self._pass:
            self.rewrite(batch, count)
        self._at += count
        return <int>count

    cdef void wrap(self) noexcept nogil:
        self._passes -= 1
        self._pass += 1
        self._at = 0
        self._shift_before = self._times.shift
        begin_next_pass(&self._times)

    cdef void shift(self, size_t count) noexcept nogil:
        """Move the times of the next packets on, in place: the pump is about to read them anyway."""
        cdef uint64_t step = self._times.shift - self._shift_before
        cdef size_t at
        if step:
            for at in range(self._at, self._at + count):
                self._packets[at].time_ns += step if self._packets[at].time_ns else 0

    cdef void rewrite(self, const zbuf_packet **batch, size_t count) noexcept nogil:
        cdef uint8_t *place = self._copied
        cdef zbuf_packet *copy
        cdef size_t at
        for at in range(count):
            copy = &self._copies[at]
            copy[0] = batch[0][at]
            memcpy(place, copy.data, copy.caplen)
            self._rewriter.rewrite(self._rewriter.self, place, copy.caplen, self._pass)
            copy.data = place
            place += (copy.caplen + 7) & ~<size_t>7
        batch[0] = self._copies


cdef int _next_of_store(PacketStore self, const zbuf_packet **batch) noexcept nogil:
    return self.next(batch)
