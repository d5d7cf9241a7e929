"""A capture file that zbuf reads itself: pcap or pcapng, from a disk or from a pipe; savefile.h has the formats.

A window of the file is in memory, and packets are given where they lie in it.  For a file on a disk the window is a
mapping of the whole file.  For a pipe it is as large as one read, grows for a larger block, and moves on when its
packets have been used.
"""

import os
import stat
from collections import deque

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset, strerror
from posix.types cimport off_t

cimport cython

from zbuf.producer.ring.contract cimport NativeSource, SOURCE_BLOCK, SOURCE_ENDED, SOURCE_FAILED, SOURCE_WOKEN
from zbuf.producer.sources.files.carried cimport CARRIED_BLOCK_BYTES, carried_options, put_carried_options
from zbuf.shared.memory.abi cimport ZBUF_NO_PACKET, zbuf_packet, zbuf_pad
from zbuf.shared.memory.linux cimport POLLIN, poll, pollfd

from zbuf.shared.errors import CaptureFileError

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *to, size_t count)
    ssize_t pread(int fd, void *to, size_t count, off_t offset)

cdef extern from "zbuf/producer/sources/files/mapping.h" nogil:
    cdef struct mapping:
        uint8_t *at
        size_t bytes
    mapping *mapping_make(int fd, size_t bytes)
    void mapping_end(mapping *one)
    size_t mapping_left(int fd, size_t bytes)

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from "zbuf/producer/sources/files/savefile.h" nogil:
    enum:
        SAVEFILE_MORE
        SAVEFILE_PACKET
        SAVEFILE_INTERFACE
        SAVEFILE_BLOCK
        SAVEFILE_DAMAGED
        SAVEFILE_END
        SAVEFILE_PCAP
        BLOCK_NAMES
        BLOCK_PACKET
        BLOCK_SECRETS
        BLOCK_CUSTOM
        BLOCK_CUSTOM_NOT_COPIED
        BLOCK_SECTION
    cdef struct pcap_magic_number "pcap_magic":
        uint32_t magic
    const pcap_magic_number *pcap_magic(const uint8_t *at, c_bool *swapped)
    uint32_t load32(const uint8_t *at, bint swapped)
    cdef struct ticks:
        int64_t offset_s
        uint8_t resolution
    cdef struct savefile_interface:
        ticks ticks
        uint32_t snaplen
        uint32_t number
        uint16_t linktype
    cdef struct savefile_extra:
        const uint8_t *options
        uint32_t options_bytes
        uint32_t flags
    cdef struct savefile:
        int format
        bint swapped
        uint64_t offset
        uint64_t packets
        uint64_t saturated
        savefile_interface *interfaces
        uint32_t count
        uint32_t all_interfaces
        c_bool over_snaplen
        bint far
        uint8_t fcs_bits
        size_t used
        size_t need
        const uint8_t *block
        uint32_t block_bytes
        uint32_t kind
        char *reason
    void savefile_begin(savefile *file)
    void savefile_free(savefile *file)
    int savefile_next(savefile *file, const uint8_t *at, size_t length, bint last, zbuf_packet *packet,
                      savefile_extra *extra)
    int savefile_batch(savefile *file, const uint8_t *at, size_t length, bint last, zbuf_packet *packets,
                       savefile_extra *extras, int most, int *event, size_t *used)
    void swap_block(uint8_t *block, uint32_t total_bytes)
    void swap_options(uint8_t *option, uint8_t *end, uint32_t kind)

cdef enum:
    BATCH_PACKETS = 256
    PAGE_BYTES = 4096
    DRY = 0                         # what read_some() found: nothing at the moment,
    FILLED = 1                      # something,
    OVER = 2                        # or the end
    WAITING_BYTES = 16 << 20        # of blocks before the first interface, which are kept until somebody asks for them

LONGEST_PASSED_BLOCK_BYTES = CARRIED_BLOCK_BYTES
"""A longer block is not passed on, unless it is a packet."""

cdef size_t READ_BYTES = 256 << 10  # little enough to stay in a second-level cache until its packets are used


@cython.final
cdef class Mapping:
    """A file mapped into memory, where its packets stay as long as this object lives.

    Args:
        fd: a file descriptor of it, which may be closed afterwards.

    Raises:
        OSError: it can't be mapped; an empty file can't.
    """

    cdef mapping *_mapping

    def __cinit__(self, int fd):
        cdef size_t size = os.fstat(fd).st_size
        self._mapping = mapping_make(fd, size)
        if self._mapping == NULL:
            raise OSError(errno, "the file can't be mapped")

    def __dealloc__(self):
        if self._mapping != NULL:
            mapping_end(self._mapping)


@cython.final
cdef class Savefile(NativeSource):
    """A pcap or pcapng file, read once from its beginning to its end; a native source.

    A batch ends before anything that is no packet.  Names, secrets and custom blocks are passed on by SOURCE_BLOCK.
    A batch of a pipe has what is there.  If nothing is, next() returns SOURCE_WOKEN once, so that what was read before
    can be passed on, and waits when it is called again.

    The first interface is waited for here.

    Args:
        fd: a file descriptor of it, which is closed with this object.
        name: what messages call it.
        interfaces: who numbers the interfaces of the whole source: its add() is called with each one that appears, and
            returns the number that its packets get. If it raises an error, check() raises that.
        head: bytes that were read from `fd` already.
        stop_fd: a file descriptor that ends the reading of a pipe when it becomes readable.

    Raises:
        CaptureFileError: it is neither pcap nor pcapng, is of an unknown version, or describes no interface.
    """

    cdef int _fd, _stop_fd
    cdef bint _seekable, _over, _ended, _ran_dry
    cdef bint _waits                # whether _waiting has any
    cdef object _waiting            # blocks that are to be passed on
    cdef size_t _waiting_bytes
    cdef bytes _passed              # the one that was last
    cdef zbuf_packet _block
    cdef uint8_t *_carried          # packets of a batch that have options, each with them behind it
    cdef size_t _carried_size
    cdef off_t _position            # of what is read next, where it is seekable
    cdef str _name
    cdef object _interfaces, _error
    cdef savefile _file
    cdef readonly Mapping lasting
    """What keeps packets in their place as long as it lives; None if they are good until the next call only."""
    cdef uint8_t *_window
    cdef uint8_t *_owned            # the same, unless it is a mapping
    cdef size_t _size, _begin, _end  # of the window; what is in it and not used yet
    cdef zbuf_packet _batch[BATCH_PACKETS]
    cdef savefile_extra _extras[BATCH_PACKETS]
    cdef int _batch_packets
    cdef uint8_t *_options          # of a batch, in this machine's byte order, where the file has the other one
    cdef size_t _options_size
    cdef readonly uint64_t left_out
    """Blocks so far that were too long to be passed on: see LONGEST_PASSED_BLOCK_BYTES."""
    cdef readonly str damage
    """Why reading stopped before the end of the file, or None; what was read before is whole."""

    def __cinit__(self, int fd, str name not None, interfaces, *, bytes head=b"", int stop_fd=-1):
        self._fd, self._stop_fd = fd, stop_fd
        self._name = name
        self._interfaces = interfaces
        self._waiting = deque()
        savefile_begin(&self._file)
        self._seekable = is_seekable(fd)
        if self._seekable:
            self._position = os.lseek(fd, 0, os.SEEK_CUR)
            self._map()
        if self.lasting is None:
            self._size = <size_t>len(head) + 1
            self._window = self._owned = <uint8_t *>malloc(self._size)
            if self._window == NULL:
                raise MemoryError
            memcpy(self._window, PyBytes_AS_STRING(head), len(head))
            self._end = len(head)

    cdef _map(self):
        """Map the file, if that is possible."""
        try:
            self.lasting = Mapping(self._fd)
        except OSError:
            return
        self._window, self._size = self.lasting._mapping.at, self.lasting._mapping.bytes
        self._begin, self._end = min(<size_t>self._position, self._size), self._size
        self._over = True
        self._file.far = True

    def __init__(self, *_args, **_options):
        """Read up to the first interface."""
        cdef int status = SOURCE_WOKEN
        with nogil:
            while status == SOURCE_WOKEN and self._file.all_interfaces == 0:
                status = self.go_on()
        self.check()
        if self._file.all_interfaces == 0:
            self.close()
            why = self.reason or "it describes no interface"
            raise CaptureFileError(f"{self._name}: not a capture file: {why}")

    def __dealloc__(self):
        self.close()
        savefile_free(&self._file)
        free(self._owned)           # not by asking `lasting`, which the garbage collector has cleared by now
        free(self._options)
        free(self._carried)

    def close(self):
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._ended = True

    @property
    def packets(self):
        """Read so far."""
        return self._file.packets

    @property
    def offset(self):
        """Bytes of the unpacked file that were read and made sense."""
        return self._file.offset

    @property
    def snaplen(self):
        """The snapshot length of a pcap file, if no packet so far was longer than that; else 0, as of a pcapng file.

        Interfaces of a pcapng file have a snapshot length each, as add() is told.
        """
        is_kept = self._file.format == SAVEFILE_PCAP and not self._file.over_snaplen
        return self._file.interfaces[0].snaplen if is_kept else 0

    @property
    def saturated(self):
        """Packets so far with a time before 1970 or after 2554, which became the nearest one in between."""
        return self._file.saturated

    @property
    def reason(self):
        """Why reading stopped, in words, without the file's name."""
        return self._file.reason.decode("utf-8", "replace")

    def check(self):
        """Raise what `interfaces` refused."""
        if self._error is not None:
            raise self._error

    def read(self):
        """A batch, for Python: (data, time_ns, wirelen, interface, flags, dropped, options) of each packet.

        It is empty at the end of the file. Options are as in a little-endian pcapng file, the end of the list left out.
        A block that is no packet comes alone, as bytes.
        """
        cdef const zbuf_packet *batch
        cdef int count = SOURCE_WOKEN, at
        with nogil:
            while count == SOURCE_WOKEN:
                count = self.next(&batch)
        if count == SOURCE_FAILED:
            self.check()
        if count == SOURCE_BLOCK:
            return self._passed
        return [
            (
                batch[at].data[:batch[at].caplen], batch[at].time_ns, batch[at].wirelen, batch[at].interface_id,
                self._extras[at].flags, batch[at].dropped, self._extras[at].options[:self._extras[at].options_bytes],
            )
            for at in range(max(count, 0))
        ]

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef int event, status
        while not self._ended:
            if self._waits:
                self.take_waiting()
                batch[0] = &self._block
                return SOURCE_BLOCK
            event = self.parse()
            if self._batch_packets:
                batch[0] = self._batch
                return self._batch_packets if self.turn_options() and self.carry_options() else self.fail()
            status = self.handle(event)
            if status <= 0:
                return status
        return SOURCE_ENDED

    cdef int parse(self) noexcept nogil:
        """Put the next packets into the batch; if there are none, the event that is returned comes next."""
        cdef int event
        cdef size_t used
        cdef uint64_t offset = self._file.offset, packets = self._file.packets, saturated = self._file.saturated
        while True:
            self._batch_packets = savefile_batch(
                &self._file, self._window + self._begin, self._end - self._begin, self._over, self._batch,
                self._extras, BATCH_PACKETS, &event, &used)
            if not self.was_cut():
                self._begin += used
                return event
            self._file.offset, self._file.packets, self._file.saturated = offset, packets, saturated

    cdef bint was_cut(self) noexcept nogil:
        """Whether the file has become shorter meanwhile, so that some of what was read may never have been in it."""
        cdef size_t left
        if not self._file.far or self._end == self._begin:
            return False
        left = mapping_left(self._fd, self._end)
        if left == self._end:
            return False
        self._end = max(left, self._begin)
        return True

    cdef int go_on(self) noexcept nogil:
        """Deal with one event before the first interface; SOURCE_WOKEN if there may be more of them."""
        cdef int event, status
        if self._ended:
            return SOURCE_ENDED
        event = savefile_next(
            &self._file, self._window + self._begin, self._end - self._begin, self._over, self._batch, self._extras)
        status = self.handle(event)
        return SOURCE_WOKEN if status > 0 else status

    cdef int handle(self, int event) noexcept nogil:
        """Deal with an event that is no packet; returns 1, or what next() is to return."""
        if event == SAVEFILE_MORE:
            return self.refill()
        if event == SAVEFILE_DAMAGED or event == SAVEFILE_END:
            with gil:
                self.end(event == SAVEFILE_DAMAGED)
            return SOURCE_ENDED
        if event == SAVEFILE_INTERFACE or is_passed_on(self._file.kind):
            with gil:
                try:
                    self.tell(event)
                except BaseException as error:
                    self._error = error
                    self.close()
                    return SOURCE_FAILED
        self._begin += self._file.used
        self._file.offset += self._file.used
        return 1

    cdef int fail(self) noexcept nogil:
        """There is no memory."""
        with gil:
            self._error = MemoryError()
        return SOURCE_FAILED

    cdef end(self, bint damaged):
        """The file is over. A pipe that was stopped in the middle of something is not damaged."""
        if damaged and not (self._over and is_readable(self._stop_fd)):
            where = f"after {self._file.packets} whole packets, at byte {self._file.offset}"
            self.damage = f"{self._name}: damaged {where}: {self.reason}"
        self.close()

    # ---- what is no packet ------------------------------------------------------------------------------------------

    cdef tell(self, int event):
        cdef savefile_interface *added
        block = b"" if self._file.block == NULL else self.little_endian(self._file.block, self._file.block_bytes)
        if event == SAVEFILE_INTERFACE:
            added = &self._file.interfaces[self._file.count - 1]
            added.number = self.tell_interface(added.linktype, block)
        elif len(block) > CARRIED_BLOCK_BYTES or self._waiting_bytes + len(block) > WAITING_BYTES:
            self.left_out += 1
        else:
            self._waiting.append(block)
            self._waiting_bytes += len(block)
            self._waits = True

    cdef tell_interface(self, linktype, block):
        fcs_bits = None if self._file.fcs_bits == 0xFF else self._file.fcs_bits * 16
        return self._interfaces.add(
            self._file.all_interfaces - 1, linktype=linktype, block=block, fcs_bits=fcs_bits)

    cdef void take_waiting(self) noexcept nogil:
        """Put the first block that waits into `_block`, where it is good until the next call."""
        with gil:
            self._passed = self._waiting.popleft()
            self._waiting_bytes -= len(self._passed)
            self._waits = len(self._waiting) > 0
            memset(&self._block, 0, sizeof(self._block))
            self._block.interface_id = ZBUF_NO_PACKET
            self._block.data = <const uint8_t *>PyBytes_AS_STRING(self._passed)
            self._block.caplen = self._block.wirelen = <uint32_t>len(self._passed)

    cdef bytes little_endian(self, const uint8_t *block, uint32_t block_bytes):
        """A copy of a block, in little-endian order."""
        cdef bytes copy = PyBytes_FromStringAndSize(<const char *>block, block_bytes)
        cdef uint8_t *place = <uint8_t *>PyBytes_AS_STRING(copy)
        if self._file.swapped:
            swap_block(place, block_bytes)
        return copy

    cdef bint turn_options(self) noexcept nogil:
        """Make the options of a big-endian file's packets little-endian; False if there is no memory."""
        cdef size_t wanted = 0
        cdef int at
        if not self._file.swapped:
            return True
        for at in range(self._batch_packets):
            wanted += self._extras[at].options_bytes
        if wanted > self._options_size:
            free(self._options)
            self._options = <uint8_t *>malloc(wanted)
            self._options_size = wanted if self._options != NULL else 0
            if self._options == NULL:
                return False
        wanted = 0
        for at in range(self._batch_packets):
            if self._extras[at].options_bytes:
                memcpy(self._options + wanted, self._extras[at].options, self._extras[at].options_bytes)
                self._extras[at].options = self._options + wanted
                wanted += self._extras[at].options_bytes
                swap_options(
                    <uint8_t *>self._extras[at].options, self._options + wanted, BLOCK_PACKET)
        return True

    cdef bint carry_options(self) noexcept nogil:
        """Copy packets with options worth carrying, and put these behind them; False if there is no memory."""
        cdef size_t wanted = 0
        cdef uint32_t words
        cdef uint8_t *place
        cdef zbuf_packet *packet
        cdef int at
        for at in range(self._batch_packets):
            words = 0
            if self._extras[at].options_bytes:
                words = carried_options(self._extras[at].options, self._extras[at].options_bytes)
            self._batch[at].options_words = <uint16_t>words  # 0, too: the batch before may have left another number
            wanted += zbuf_pad(self._batch[at].caplen) + 4 * words if words else 0
        if wanted == 0:
            return True
        if wanted > self._carried_size:
            free(self._carried)
            self._carried = <uint8_t *>malloc(wanted)
            self._carried_size = wanted if self._carried != NULL else 0
            if self._carried == NULL:
                return False
        place = self._carried
        for at in range(self._batch_packets):
            packet = &self._batch[at]
            if packet.options_words:
                memcpy(place, packet.data, packet.caplen)
                packet.data = place
                place += zbuf_pad(packet.caplen)
                put_carried_options(place, self._extras[at].options, self._extras[at].options_bytes)
                place += 4 * packet.options_words
        return True

    # ---- the window -------------------------------------------------------------------------------------------------

    cdef int refill(self) noexcept nogil:
        """Read more of the file into the window; returns 1, or what next() is to return."""
        cdef int got
        if not self.make_room():
            return self.fail()
        got = self.read_some()
        if got == DRY:
            return SOURCE_WOKEN
        if got < 0:
            with gil:
                self._error = CaptureFileError(f"{self._name}: {strerror(errno).decode('utf-8', 'replace')}")
                self.close()
            return SOURCE_FAILED
        self._over = got == OVER
        return 1

    cdef bint make_room(self) noexcept nogil:
        """Move what is left to the beginning of the window, and have room behind it.

        The window becomes at most twice as long as what it holds, so that a length that lies takes no more memory. What
        is read next begins on a page: to other places the kernel copies up to four times more slowly.
        """
        cdef size_t left = self._end - self._begin
        cdef size_t place = (PAGE_BYTES - left % PAGE_BYTES) % PAGE_BYTES
        cdef size_t wanted = PAGE_BYTES + max(READ_BYTES, min(self._file.need, 2 * left))
        cdef uint8_t *window = self._window
        if wanted > self._size or (self._size > PAGE_BYTES + READ_BYTES and left < READ_BYTES):
            window = <uint8_t *>aligned_alloc(PAGE_BYTES, (wanted + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES)
            if window == NULL:
                return False
        if left:
            memmove(window + place, self._window + self._begin, left)
        if window != self._window:
            free(self._owned)
            self._window = self._owned = window
            self._size = wanted
        self._begin, self._end = place, place + left
        return True

    cdef int read_some(self) noexcept nogil:
        """Read what there is into the rest of the window; returns FILLED, OVER or DRY, or -1 for an error."""
        cdef ssize_t got
        if not self._seekable and not self.wait_for_input():
            return OVER if is_readable(self._stop_fd) else DRY
        if self._seekable:
            got = pread(self._fd, self._window + self._end, self._size - self._end, self._position)
        else:
            got = read(self._fd, self._window + self._end, self._size - self._end)
        if got < 0:
            return DRY if errno == EAGAIN or errno == EINTR else -1
        self._position += got
        self._end += <size_t>got
        self._ran_dry = False
        return FILLED if got else OVER

    cdef bint wait_for_input(self) noexcept nogil:
        """Whether there is something to read; only a second call in a row waits for that."""
        cdef pollfd polled[2]
        cdef bint patient = self._ran_dry
        memset(polled, 0, sizeof(polled))
        polled[0].fd, polled[1].fd = self._fd, self._stop_fd  # a negative one is passed over
        polled[0].events = polled[1].events = POLLIN
        self._ran_dry = True
        return poll(polled, 2, -1 if patient else 0) > 0 and not polled[1].revents


cdef bint is_passed_on(uint32_t kind) noexcept nogil:
    """Whether blocks of this type are passed on: names, secrets, and custom blocks."""
    return kind == BLOCK_NAMES or kind == BLOCK_SECRETS or kind == BLOCK_CUSTOM or kind == BLOCK_CUSTOM_NOT_COPIED


cdef bint is_readable(int fd) noexcept nogil:
    cdef pollfd polled
    polled.fd, polled.events, polled.revents = fd, POLLIN, 0
    return fd >= 0 and poll(&polled, 1, 0) > 0


def is_seekable(int fd):
    """Whether it can be read from any place, more than once: a regular file, or a disk."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def is_savefile(bytes head not None):
    """Whether a file is pcap or pcapng, as far as its first 4 bytes tell, or all of it if it is shorter."""
    cdef c_bool swapped
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(head)
    return len(head) < 4 or pcap_magic(at, &swapped) != NULL or load32(at, False) == BLOCK_SECTION
