"""A capture file that libpcap reads."""

import os

from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdio cimport _IOFBF, FILE, ftell, setvbuf
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport cython

from zbuf.producer.pcap cimport (
    PCAP_ERRBUF_SIZE,
    PCAP_TSTAMP_PRECISION_NANO,
    fclose,
    fdopen,
    linktype_of,
    pcap_close,
    pcap_file,
    pcap_fopen_offline_with_tstamp_precision,
    pcap_geterr,
    pcap_next_ex,
    pcap_pkthdr,
    pcap_t,
)
from zbuf.producer.ring.contract cimport NativeSource
from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN, zbuf_packet

from zbuf.shared.errors import CaptureFileError

cdef enum:
    BATCH_PACKETS = 256
    READ_BUFFER_BYTES = 1 << 20


@cython.final
cdef class CaptureFile(NativeSource):
    """A capture file, read once from its beginning to its end; a native source.

    Args:
        fd: a file descriptor of it, a pipe for one; it is closed with this object.
        name: what messages call it.
        interface: the interface number that its packets get.

    Raises:
        CaptureFileError: it is empty, or libpcap takes it for no capture.
    """

    cdef pcap_t *_pcap
    cdef str _name
    cdef public uint32_t interface
    """The number that its packets get."""
    cdef zbuf_packet _batch[BATCH_PACKETS]
    cdef uint8_t *_arena
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
        self.interface = interface
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
        packet.interface_id = self.interface
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
