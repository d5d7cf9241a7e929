"""Packets read ahead of the pump, by a thread of their own: a disk that stalls for a moment does not stall the pump.

The two share a ring of blocks.  The thread fills one after the other and posts each; the pump takes the packets of one
after the other, and gives each back.  Two eventfds count the blocks that are posted and those that are free: whoever
has read one off them owns that block, and there is nothing else to agree on.

Packets of a mapped file stay where they are: a block has their places only, and the thread touches each of their pages,
which the kernel reads from the disk then.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close

cimport cython

from zbuf.producer.ring.contract cimport (
    NativeSource,
    Rewriter,
    SOURCE_BLOCK,
    SOURCE_ENDED,
    SOURCE_FAILED,
    SOURCE_INTERFACES,
    SOURCE_WOKEN,
)
from zbuf.producer.sources.files.carried cimport CARRIED_BLOCK_BYTES
from zbuf.producer.sources.files.sizes cimport note_size, size_counts
from zbuf.producer.sources.files.times cimport begin_next_pass, note_time, pass_times
from zbuf.shared.memory.abi cimport ZBUF_NO_PACKET, zbuf_packet, zbuf_pad
from zbuf.shared.memory.linux cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    EFD_SEMAPHORE,
    POLLIN,
    eventfd,
    eventfd_read,
    eventfd_write,
    poll,
    pollfd,
)

cdef extern from "zbuf/producer/sources/files/mapping.h" nogil:
    void mapping_touch(const uint8_t *at, size_t bytes)

cdef enum:
    BLOCKS = 8
    BLOCK_BYTES = 1 << 20
    BLOCK_PACKETS = 8192
    BATCH_PACKETS = 256

cdef struct ahead_block:
    uint32_t packets                # none: it is the end
    uint32_t interfaces             # so many are needed for them: the largest number, and one
    zbuf_packet *packet
    uint8_t *data


@cython.final
cdef class ReadAhead(NativeSource):
    """What a thread reads of native sources, one after the other: a native source that can run dry.

    The thread calls fill() for each source, next_pass() where they begin once more, and finish() at the end.

    Args:
        stop_fd: once this file descriptor is readable, the thread waits for no room any more.
        rewriter: who changes what is read after the first pass.
        interfaces: how many the producer knows already; next() says SOURCE_INTERFACES before packets of later ones.
    """

    cdef ahead_block _blocks[BLOCKS]
    cdef int _posted_fd, _free_fd, _wake_fd, _stop_fd
    # the thread's
    cdef ahead_block *_filling      # NULL between two blocks
    cdef uint32_t _next_filled
    cdef size_t _used
    cdef uint64_t _pass
    cdef pass_times _times
    cdef size_counts _sizes
    cdef Rewriter _rewriter
    cdef bint _copies               # whether packets have to be copied, since they don't stay where they are
    cdef uint64_t _begun            # blocks so far
    cdef list _lasting              # what keeps packets in place, each with how many blocks had begun by its end
    # the pump's
    cdef ahead_block *_taking
    cdef uint32_t _announced        # interfaces that the producer knows
    cdef uint32_t _next_taken
    cdef uint32_t _taken
    cdef public object error
    """What check() raises; set it before finish()."""

    def __cinit__(self, int stop_fd, Rewriter rewriter=None, uint32_t interfaces=0xFFFFFFFF):
        cdef int number
        self._announced = interfaces
        self._lasting = []
        self._stop_fd = stop_fd
        self._posted_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)
        self._free_fd = eventfd(BLOCKS, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if min(self._posted_fd, self._free_fd, self._wake_fd) < 0:
            raise OSError(errno, "no file descriptors are left to read ahead")
        for number in range(BLOCKS):
            self._blocks[number].packet = <zbuf_packet *>malloc(BLOCK_PACKETS * sizeof(zbuf_packet))
            self._blocks[number].data = <uint8_t *>malloc(BLOCK_BYTES + CARRIED_BLOCK_BYTES + 8)
            if self._blocks[number].packet == NULL or self._blocks[number].data == NULL:
                raise MemoryError
        self._rewriter = rewriter

    def __dealloc__(self):
        cdef int number
        for number in range(BLOCKS):
            free(self._blocks[number].packet)
            free(self._blocks[number].data)
        for fd in (self._posted_fd, self._free_fd, self._wake_fd):
            if fd > 0:
                close(fd)

    @property
    def sizes(self):
        """Of what was read in the first pass: packets of each class of sizes.pxd, and the bytes of all on the wire."""
        return list(self._sizes.classes), self._sizes.wire_bytes

    def check(self):
        """Raise what the thread could not go on for."""
        if self.error is not None:
            raise self.error

    # ---- the thread -------------------------------------------------------------------------------------------------

    def fill(self, NativeSource source not None):
        """Read a native source to its end; False where that is over, since the pump takes no more."""
        cdef const zbuf_packet *batch
        cdef int packets
        cdef bint room = True
        lasting = getattr(source, "lasting", None)
        self._copies = lasting is None
        self._let_go()
        with nogil:
            packets = source.next(&batch)
            while room and (packets > 0 or packets == SOURCE_WOKEN or packets == SOURCE_BLOCK):
                if packets == SOURCE_WOKEN:
                    self.flush()
                room = self.put_all(batch, 1 if packets == SOURCE_BLOCK else packets)
                packets = source.next(&batch) if room else packets
        if lasting is not None:
            self._lasting.append((lasting, self._begun))
        if packets < 0 and packets != SOURCE_WOKEN and packets != SOURCE_BLOCK:
            source.check()
        return room

    def _let_go(self):
        """Let go of files whose packets have all been taken: who begins a block has all but a ring of them back."""
        self._lasting = [(one, until) for one, until in self._lasting if until + BLOCKS > self._begun]

    def next_pass(self):
        """All sources are read; they begin again. Returns False where they have no packets at all."""
        begin_next_pass(&self._times)
        self._pass += 1
        return self._times.packets > 0

    def finish(self):
        """Post what is left, and the end."""
        with nogil:
            self.flush()
            if self.begin_block():
                self.post()

    cdef bint put_all(self, const zbuf_packet *packets, int count) noexcept nogil:
        cdef int at
        for at in range(count):
            if not self.put(&packets[at]):
                return False
        return True

    cdef void flush(self) noexcept nogil:
        """The source has no more at the moment: post what it gave until now."""
        if self._filling != NULL:
            self.post()

    cdef bint put(self, const zbuf_packet *packet) noexcept nogil:
        cdef zbuf_packet *copy
        cdef uint32_t length = packet.caplen
        cdef bint is_block = packet.interface_id == ZBUF_NO_PACKET
        if is_block and self._pass:
            return True
        if packet.options_words:
            length = zbuf_pad(packet.caplen) + 4 * packet.options_words
        if self._filling == NULL and not self.begin_block():
            return False
        copy = &self._filling.packet[self._filling.packets]
        copy[0] = packet[0]
        if self._copies or is_block or packet.options_words or (self._pass and self._rewriter is not None):
            copy.data = self._filling.data + self._used
            memcpy(self._filling.data + self._used, packet.data, length)
        else:
            mapping_touch(packet.data, length)
        if not is_block:
            self.go_on(copy, self._filling.data + self._used)
            self._filling.interfaces = max(self._filling.interfaces, packet.interface_id + 1)
        self._used += (length + 7) & ~<size_t>7
        self._filling.packets += 1
        if self._used >= BLOCK_BYTES or self._filling.packets == BLOCK_PACKETS:
            self.post()
        return True

    cdef void go_on(self, zbuf_packet *packet, uint8_t *data) noexcept nogil:
        """Give a packet the time, and the addresses, that belong to this pass."""
        if self._pass == 0:
            note_time(&self._times, packet.time_ns)
            note_size(&self._sizes, packet.wirelen)
            return
        # A file may have changed since the first pass.
        if packet.time_ns and packet.time_ns <= <uint64_t>-1 - self._times.shift:
            packet.time_ns += self._times.shift
        if self._rewriter is not None:
            self._rewriter.rewrite(data, packet.caplen, self._pass)

    cdef bint begin_block(self) noexcept nogil:
        """Wait for a block that is free; False once it has been stopped."""
        while not take_one(self._free_fd):
            if wait_for(self._free_fd, self._stop_fd):
                return False
        self._begun += 1
        self._filling = &self._blocks[self._next_filled]
        self._next_filled = (self._next_filled + 1) % BLOCKS
        self._filling.packets = self._filling.interfaces = 0
        self._used = 0
        return True

    cdef void post(self) noexcept nogil:
        self._filling = NULL
        eventfd_write(self._posted_fd, 1)

    # ---- the pump ---------------------------------------------------------------------------------------------------

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        cdef uint32_t count
        if self._taking != NULL and self._taking.packets and self._taken == self._taking.packets:
            self._taking = NULL
            eventfd_write(self._free_fd, 1)
        if self._taking == NULL and not self.take_block():
            return SOURCE_WOKEN
        if self._taking.packets == 0:
            return self.end()
        if self._taking.interfaces > self._announced:
            self._announced = self._taking.interfaces
            return SOURCE_INTERFACES
        count = self.up_to_block(min(<uint32_t>BATCH_PACKETS, self._taking.packets - self._taken))
        batch[0] = self._taking.packet + self._taken
        self._taken += max(count, <uint32_t>1)
        return <int>count if count else SOURCE_BLOCK

    cdef uint32_t up_to_block(self, uint32_t most) noexcept nogil:
        """How many packets, up to `most`, are in front of the next block that is no packet."""
        cdef uint32_t at
        for at in range(most):
            if self._taking.packet[self._taken + at].interface_id == ZBUF_NO_PACKET:
                return at
        return most

    cdef void wake(self) noexcept nogil:
        eventfd_write(self._wake_fd, 1)

    cdef bint take_block(self) noexcept nogil:
        """Wait for a block; False where wake() or a signal ended that."""
        cdef uint64_t wakes
        while not take_one(self._posted_fd):
            if wait_for(self._posted_fd, self._wake_fd):
                eventfd_read(self._wake_fd, &wakes)
                return False
        self._taking = &self._blocks[self._next_taken]
        self._next_taken = (self._next_taken + 1) % BLOCKS
        self._taken = 0
        return True

    cdef int end(self) noexcept nogil:
        with gil:
            return SOURCE_ENDED if self.error is None else SOURCE_FAILED


cdef bint take_one(int semaphore) noexcept nogil:
    cdef uint64_t one
    return eventfd_read(semaphore, &one) == 0


cdef bint wait_for(int fd, int end_fd) noexcept nogil:
    """Wait until `fd` is readable; True where `end_fd` is, or a signal came."""
    cdef pollfd polled[2]
    memset(polled, 0, sizeof(polled))
    polled[0].fd, polled[1].fd = fd, end_fd
    polled[0].events = polled[1].events = POLLIN
    if poll(polled, 2, -1) < 0:
        return errno == EINTR
    return polled[1].revents != 0
