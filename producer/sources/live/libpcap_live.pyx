"""Live interfaces by libpcap: on Linux its memory-mapped ring (TPACKET_V3), read without the GIL.

While packets keep coming, no system call is made for them: libpcap looks into the ring first, and asks the kernel only
where the ring is empty.  Then the source sleeps, on all its interfaces and on the pump's wake-up at once.

libpcap gives a block of its ring back to the kernel as soon as its last packet was handed over, so packets are copied
here; a batch is small enough to stay in the second-level cache until the descriptors have taken it.
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport cython

from zbuf.producer.pcap cimport (
    PCAP_NETMASK_UNKNOWN,
    PCAP_D_IN,
    PCAP_D_INOUT,
    PCAP_D_OUT,
    PCAP_ERRBUF_SIZE,
    PCAP_ERROR_IFACE_NOT_UP,
    PCAP_ERROR_NO_SUCH_DEVICE,
    PCAP_ERROR_PERM_DENIED,
    PCAP_ERROR_PROMISC_PERM_DENIED,
    PCAP_TSTAMP_PRECISION_NANO,
    bpf_program,
    linktype_of,
    pcap_activate,
    pcap_close,
    pcap_compile,
    pcap_create,
    pcap_dispatch,
    pcap_freecode,
    pcap_get_selectable_fd,
    pcap_get_tstamp_precision,
    pcap_geterr,
    pcap_handler,
    pcap_pkthdr,
    pcap_set_buffer_size,
    pcap_set_immediate_mode,
    pcap_set_promisc,
    pcap_set_snaplen,
    pcap_set_timeout,
    pcap_set_tstamp_precision,
    pcap_setdirection,
    pcap_setfilter,
    pcap_setnonblock,
    pcap_stat,
    pcap_stats,
    pcap_statustostr,
    pcap_t,
)
from zbuf.producer.ring.contract cimport NativeSource, SOURCE_WOKEN
from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN, zbuf_packet

from zbuf.shared.errors import FilterError, InterfaceError, ValueRefused

cdef extern from "zbuf/producer/sources/live/kernel_ring.h" nogil:
    uint32_t tpacket3_direction(const pcap_pkthdr *packet, const uint8_t *data)
    uint32_t tpacket2_direction(const pcap_pkthdr *packet, const uint8_t *data)
    uint32_t cooked_direction(const pcap_pkthdr *packet, const uint8_t *data)

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    enum:
        EFD_CLOEXEC
        EFD_NONBLOCK
    int eventfd(unsigned value, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int fd, int level, int option, const void *value, unsigned size)

cdef extern from "<linux/if_packet.h>" nogil:
    enum:
        PACKET_IGNORE_OUTGOING

cdef enum:
    SOL_PACKET = 263
    IFF_LOOPBACK = 0x8

cdef enum:
    BATCH_PACKETS = 128
    BLOCK_TIMEOUT_MS = 10           # after which the kernel hands over a block of the ring that is not full
    BATCHES_PER_LOOK = 64           # how long the others wait while one interface is busy
    LINKTYPE_LINUX_SLL = 113

DIRECTIONS = {"inout": PCAP_D_INOUT, "in": PCAP_D_IN, "out": PCAP_D_OUT}

ctypedef uint32_t (*direction_reader)(const pcap_pkthdr *packet, const uint8_t *data) noexcept nogil


@cython.final
cdef class LiveInterface:
    """One interface, open for capture; packets are kept in the kernel's ring from its making on.

    Args:
        name: the interface's; "any" for all of them.
        snaplen: bytes to capture of each packet.
        promiscuous: whether to see what is not addressed to this machine.
        buffer_bytes: of the kernel's ring.
        immediate: have each packet at once, at the price of a wake-up for each.
        direction: "in", "out" or "inout".
        expression: a pcap-filter(7), set before the first packet is taken.

    Raises:
        InterfaceError: there is none of that name, it is down, of no link type for files, or not ours to capture on.
        FilterError: the filter does not compile.
    """

    cdef pcap_t *_pcap
    cdef uint64_t _received, _dropped, _dropped_by_interface    # 64-bit, though libpcap counts in 32
    cdef pcap_stat _last
    cdef bint _immediate
    cdef readonly str name
    cdef readonly uint32_t linktype
    cdef readonly str warning
    """What libpcap says of the interface though it can be captured on, or None."""

    def __cinit__(self, str name not None, *, int snaplen=ZBUF_MAX_CAPLEN, bint promiscuous=True,
                  int buffer_bytes=16 << 20, bint immediate=False, direction="inout", str expression not None=""):
        cdef char errbuf[PCAP_ERRBUF_SIZE]
        if direction not in DIRECTIONS:
            raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
        self.name = name
        self._pcap = pcap_create(os.fsencode(name), errbuf)
        if self._pcap == NULL:
            raise InterfaceError(f"{name}: {_text(errbuf)}")
        self._immediate = immediate
        pcap_set_snaplen(self._pcap, snaplen)
        pcap_set_promisc(self._pcap, promiscuous)
        pcap_set_timeout(self._pcap, BLOCK_TIMEOUT_MS)
        pcap_set_immediate_mode(self._pcap, immediate)
        pcap_set_tstamp_precision(self._pcap, PCAP_TSTAMP_PRECISION_NANO)
        pcap_set_buffer_size(self._pcap, buffer_bytes)
        self._activate()
        self._set_linktype()
        if pcap_setnonblock(self._pcap, 1, errbuf) < 0 or pcap_get_selectable_fd(self._pcap) < 0:
            raise InterfaceError(f"{name}: it can't be waited for: {_text(errbuf)}")
        self._set_direction(direction)
        self._set_filter(expression)

    def __dealloc__(self):
        if self._pcap != NULL:
            pcap_close(self._pcap)

    cdef _activate(self):
        cdef int status
        with nogil:
            status = pcap_activate(self._pcap)
        if status < 0:
            raise InterfaceError(_why_not(self.name, status, self._error()))
        if status > 0:
            self.warning = f"{self.name}: {self._error() or _text(pcap_statustostr(status))}"

    cdef _set_linktype(self):
        cdef int64_t linktype = linktype_of(self._pcap)
        if linktype < 0:
            raise InterfaceError(f"{self.name}: its link type has no number in capture files: zbuf can't capture on it")
        self.linktype = <uint32_t>linktype

    cdef _set_direction(self, direction):
        """Have libpcap leave packets out; and the kernel, where it can: they take no room in its ring then.

        On a loopback interface, where the kernel shows every packet on its way out and on its way in, libpcap leaves
        out the first of the two.
        """
        cdef int yes = 1
        if direction != "inout" and pcap_setdirection(self._pcap, DIRECTIONS[direction]) < 0:
            raise InterfaceError(f"{self.name}: {self._error()}")
        if direction == "in" or is_loopback(self.name):
            setsockopt(pcap_get_selectable_fd(self._pcap), SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes))

    cdef _set_filter(self, str expression):
        cdef bpf_program program
        if not expression.strip():
            return
        if "\0" in expression:
            raise FilterError(f"filter {expression!r}: it has a NUL character")
        text = expression.encode("utf-8", "surrogateescape")
        if pcap_compile(self._pcap, &program, text, 1, PCAP_NETMASK_UNKNOWN) < 0:
            raise FilterError(f"filter '{expression}': {self._error()}")
        refused = pcap_setfilter(self._pcap, &program) < 0
        pcap_freecode(&program)
        if refused:
            raise FilterError(f"filter '{expression}': {self._error()}")

    cdef str _error(self):
        return _text(pcap_geterr(self._pcap))

    cdef direction_reader direction_reader_of(self):
        if self.linktype == LINKTYPE_LINUX_SLL:
            return cooked_direction
        if not os.path.exists(f"/sys/class/net/{self.name}"):
            return NULL             # no packet socket: a USB bus, say
        return tpacket2_direction if self._immediate else tpacket3_direction

    def statistics(self):
        """(received, dropped by the kernel, dropped by the interface) since it was opened; 64-bit.

        What is received passed the filter, and is counted whether it was dropped then or not (pcap_stats(3PCAP)).
        """
        cdef pcap_stat now
        if self._pcap != NULL and pcap_stats(self._pcap, &now) == 0:
            self._received += <uint32_t>(now.ps_recv - self._last.ps_recv)
            self._dropped += <uint32_t>(now.ps_drop - self._last.ps_drop)
            self._dropped_by_interface += <uint32_t>(now.ps_ifdrop - self._last.ps_ifdrop)
            self._last = now
        return self._received, self._dropped, self._dropped_by_interface

    def close(self):
        """Close it; its statistics stay."""
        self.statistics()
        if self._pcap != NULL:
            pcap_close(self._pcap)
            self._pcap = NULL


def is_loopback(name):
    """Whether the kernel says so of a network interface (netdevice(7)); what is none is not."""
    try:
        with open(f"/sys/class/net/{name}/flags") as flags:
            return bool(int(flags.read(), 16) & IFF_LOOPBACK)
    except OSError:
        return False


cdef str _text(const char *message):
    return message.decode("utf-8", "replace")


def _why_not(name, status, detail):
    """One line on why an interface can't be opened, and what to do."""
    if status == PCAP_ERROR_NO_SUCH_DEVICE:
        return f"{name}: no such interface: zbufd interfaces lists what there is"
    if status in (PCAP_ERROR_PERM_DENIED, PCAP_ERROR_PROMISC_PERM_DENIED):
        return (f"{name}: no permission to capture: it takes root or CAP_NET_RAW: sudo zbufd, or "
                "AmbientCapabilities=CAP_NET_RAW in a unit, or setcap cap_net_raw+ep on a Python of zbuf's own")
    if status == PCAP_ERROR_IFACE_NOT_UP:
        return f"{name}: the interface is down: ip link set {name} up"
    return f"{name}: {detail or pcap_statustostr(status).decode()}"


# An interface as next() sees it.
cdef struct live_slot:
    pcap_t *pcap                    # NULL while it is lost
    bint ready                      # it may have packets
    uint32_t unit_ns                # of its timestamps' fraction
    direction_reader direction
    uint64_t packets
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
        slot.pcap = interface._pcap
        slot.unit_ns = 1 if pcap_get_tstamp_precision(interface._pcap) == PCAP_TSTAMP_PRECISION_NANO else 1000
        slot.direction = interface.direction_reader_of()
        slot.ready = True
        self._polled[place].fd = pcap_get_selectable_fd(interface._pcap)
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

    def packets(self, int place):
        """Packets taken of an interface so far, the lost ones in its place included."""
        return self._slots[place].packets

    def close(self):
        """Close all interfaces."""
        for place in range(self._count):
            self._slots[place].pcap = NULL
            self._interfaces[place].close()

    cdef void lose(self, int place) noexcept nogil:
        """An interface failed: report it, and do without."""
        with gil:
            self.forget(place, (<LiveInterface>self._interfaces[place])._error())

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
            status = pcap_dispatch(self._slots[place].pcap, BATCH_PACKETS, <pcap_handler>_take, <uint8_t *><void *>self)
            if status < 0:
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
        packet.time_ns = <uint64_t>header.ts.tv_sec * 1_000_000_000 + <uint64_t>header.ts.tv_usec * slot.unit_ns
        packet.dropped = slot.lost
        packet.caplen = min(header.caplen, ZBUF_MAX_CAPLEN + 1)     # one byte too many, so that the cut is counted
        packet.wirelen = header.len
        packet.interface_id = <uint32_t>self._taking
        packet.direction = 0 if slot.direction == NULL else slot.direction(header, data)
        packet.data = self._arena + self._arena_used
        memcpy(self._arena + self._arena_used, data, packet.caplen)
        self._arena_used += (packet.caplen + 7) & ~<size_t>7
        self._batched += 1
        slot.packets += 1
        slot.lost = 0


cdef void _take(LiveCapture self, const pcap_pkthdr *header, const uint8_t *data) noexcept nogil:
    self.take(header, data)
