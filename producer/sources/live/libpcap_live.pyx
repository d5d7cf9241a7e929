"""Packets of live interfaces by libpcap: on Linux its memory-mapped ring (TPACKET_V3), read without the GIL.

While packets keep coming, no system call is made for them: libpcap looks into the ring first, and asks the kernel only
where the ring is empty.  Then the source sleeps, on all its interfaces and on the pump's wake-up at once.

libpcap gives a block of its ring back to the kernel as soon as its last packet was handed over, so packets are copied
here; a batch is small enough to stay in the second-level cache until the descriptors have taken it.
"""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport cython

from zbuf.producer.pcap cimport (
    pcap_dispatch,
    pcap_get_selectable_fd,
    pcap_handler,
    pcap_pkthdr,
    pcap_t,
)
from zbuf.producer.ring.contract cimport NativeSource, SOURCE_WOKEN
from zbuf.producer.sources.live.libpcap_interface cimport LiveInterface, ring_look, ring_view
from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN, zbuf_packet
from zbuf.shared.memory.linux cimport (
    EFD_CLOEXEC,
    EFD_NONBLOCK,
    POLLIN,
    eventfd,
    eventfd_read,
    eventfd_write,
    poll,
    pollfd,
)

from zbuf.shared.errors import ValueRefused

cdef extern from *:
    """
    #include <errno.h>
    static inline void set_errno(int number) { errno = number; }
    """
    void set_errno(int number) nogil

cdef enum:
    BATCH_PACKETS = 128
    BATCHES_PER_LOOK = 64           # how long the others wait while one interface is busy

# An interface as next() sees it.
cdef struct live_slot:
    pcap_t *pcap                    # NULL while it is lost
    bint ready                      # it may have packets
    ring_view view
    ring_look look
    uint64_t packets
    uint64_t wire_bytes             # of those packets
    uint64_t lost                   # dropped by the kernel, and not marked on a packet yet


@cython.final
cdef class LiveCapture(NativeSource):
    """The packets of several interfaces, each in its order; a native source that does not end.

    A packet's interface number is its interface's place in the list.

    Args:
        interfaces: LiveInterface objects, 1 to 64.
        on_lost: called with the place of an interface that failed, and why, by the thread that pumps.
    """

    cdef list _interfaces
    cdef object _on_lost
    cdef live_slot *_slots
    cdef pollfd *_polled            # of each slot, and the wake-up
    cdef int _count
    cdef int _turn                  # whose packets come next
    cdef int _taking                # whose packets come now
    cdef int _batches               # until all interfaces are looked at
    cdef zbuf_packet _batch[BATCH_PACKETS]
    cdef int _batched
    cdef uint8_t *_arena
    cdef size_t _arena_used
    cdef int _wake_fd

    def __cinit__(self, interfaces, on_lost):
        self._wake_fd = -1
        self._interfaces = list(interfaces)
        self._on_lost = on_lost
        self._count = len(self._interfaces)
        if not 1 <= self._count <= 64:
            raise ValueRefused(f"{self._count} interfaces: a capture takes 1 to 64")
        # Room for a batch of the largest packets; the kernel gives memory for what is touched of it.
        self._arena = <uint8_t *>malloc(<size_t>BATCH_PACKETS * (ZBUF_MAX_CAPLEN + 8))
        self._slots = <live_slot *>malloc(self._count * sizeof(live_slot))
        self._polled = <pollfd *>malloc((self._count + 1) * sizeof(pollfd))
        if self._arena == NULL or self._slots == NULL or self._polled == NULL:
            raise MemoryError
        memset(self._slots, 0, self._count * sizeof(live_slot))
        for place, interface in enumerate(list(self._interfaces)):
            self.install(place, interface)
        self._wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self._wake_fd < 0:
            raise OSError(errno, os.strerror(errno))
        self._polled[self._count].fd = self._wake_fd
        self._polled[self._count].events = POLLIN

    def __dealloc__(self):
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
        free(self._arena)
        free(self._slots)
        free(self._polled)

    def install(self, int place, LiveInterface interface not None):
        """Take packets of this interface, in the place of one that was lost; for the owner of the pump alone."""
        cdef live_slot *slot = &self._slots[place]
        self._interfaces[place] = interface
        slot.pcap = interface.pcap
        slot.view = interface.view
        slot.look = interface.look
        slot.ready = not interface.waits_first
        self._polled[place].fd = pcap_get_selectable_fd(interface.pcap)
        self._polled[place].events = POLLIN

    def remove(self, int place, str why not None):
        """Do without an interface that is gone, though libpcap has not noticed; for the owner of the pump alone."""
        if self._slots[place].pcap != NULL:
            self.forget(place, why)

    cdef forget(self, int place, str why):
        self._slots[place].pcap = NULL
        self._polled[place].fd = -1
        self._interfaces[place].close()
        self._on_lost(place, why)

    def note_drops(self, int place, uint64_t packets):
        """The kernel dropped that many more: mark them on this interface's next packet (epb_dropcount)."""
        self._slots[place].lost += packets

    def taken(self, int place):
        """(packets, their bytes on the wire) taken so far, from all the interfaces that were in this place."""
        return self._slots[place].packets, self._slots[place].wire_bytes

    def close(self):
        """Close all interfaces."""
        for place in range(self._count):
            self._slots[place].pcap = NULL
            self._interfaces[place].close()

    cdef void lose(self, int place) noexcept nogil:
        """An interface failed: report it, and do without."""
        with gil:
            self.forget(place, (<LiveInterface>self._interfaces[place]).error())

    cdef int next(self, const zbuf_packet **batch) noexcept nogil:
        self._batched = 0
        self._arena_used = 0
        batch[0] = self._batch
        while not self.collect():
            if self.wait(-1):
                return SOURCE_WOKEN
        self._batches += 1
        if self._count > 1 and self._batches % BATCHES_PER_LOOK == 0:
            self.wait(0)
        return self._batched

    cdef void wake(self) noexcept nogil:
        eventfd_write(self._wake_fd, 1)

    cdef bint collect(self) noexcept nogil:
        """Take a batch of the next interface that has packets; False where none has."""
        cdef int _place, place, status
        for _place in range(self._count):
            place = self._turn
            self._turn = 0 if place + 1 == self._count else place + 1
            if self._slots[place].pcap == NULL or not self._slots[place].ready:
                continue
            self._taking = place
            set_errno(0)
            status = pcap_dispatch(self._slots[place].pcap, BATCH_PACKETS, <pcap_handler>_take, <uint8_t *><void *>self)
            if status < 0 and errno != EAGAIN:  # an error for libpcap's netfilter module; there is no packet, no more
                self.lose(place)
            self._slots[place].ready = status > 0
            if self._batched:
                return True
        return False

    cdef bint wait(self, int timeout_ms) noexcept nogil:
        """Sleep until an interface has packets; True where wake() or a signal ended it."""
        cdef int place
        cdef uint64_t wakes
        if poll(self._polled, self._count + 1, timeout_ms) < 0:
            return errno == EINTR
        for place in range(self._count):
            self._slots[place].ready |= self._polled[place].revents != 0
        return self._polled[self._count].revents != 0 and eventfd_read(self._wake_fd, &wakes) == 0

    cdef void take(self, const pcap_pkthdr *header, const uint8_t *data) noexcept nogil:
        cdef live_slot *slot = &self._slots[self._taking]
        cdef zbuf_packet *packet = &self._batch[self._batched]
        packet.time_ns = <uint64_t>header.ts.tv_sec * 1_000_000_000 + <uint64_t>header.ts.tv_usec * slot.view.unit_ns
        packet.dropped = slot.lost
        packet.caplen = min(header.caplen, ZBUF_MAX_CAPLEN + 1)     # one byte too many, so that the cut is counted
        packet.wirelen = header.len
        packet.interface_id = <uint32_t>self._taking
        packet.direction = packet.tag_at = 0
        if slot.look != NULL:
            slot.look(&slot.view, header, data, packet)
        packet.data = self._arena + self._arena_used
        memcpy(self._arena + self._arena_used, data, packet.caplen)
        self._arena_used += (packet.caplen + 7) & ~<size_t>7
        self._batched += 1
        slot.packets += 1
        slot.wire_bytes += header.len
        slot.lost = 0


cdef void _take(LiveCapture self, const pcap_pkthdr *header, const uint8_t *data) noexcept nogil:
    self.take(header, data)
