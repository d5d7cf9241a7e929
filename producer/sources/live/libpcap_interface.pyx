"""Opening a live interface by libpcap, and compiling filters for it."""

import os
import threading

from libc.stdint cimport int64_t, uint32_t, uint8_t
from libc.string cimport memset

cimport cython

from zbuf.producer.filters cimport compile_on
from zbuf.producer.pcap cimport (
    PCAP_D_IN,
    PCAP_D_INOUT,
    PCAP_D_OUT,
    PCAP_ERRBUF_SIZE,
    PCAP_ERROR_IFACE_NOT_UP,
    PCAP_ERROR_NO_SUCH_DEVICE,
    PCAP_ERROR_PERM_DENIED,
    PCAP_ERROR_PROMISC_PERM_DENIED,
    PCAP_TSTAMP_PRECISION_MICRO,
    PCAP_TSTAMP_PRECISION_NANO,
    bpf_insn,
    bpf_program,
    linktype_of,
    pcap_activate,
    pcap_close,
    pcap_create,
    pcap_datalink_name_to_val,
    pcap_get_selectable_fd,
    pcap_get_tstamp_precision,
    pcap_geterr,
    pcap_pkthdr,
    pcap_set_buffer_size,
    pcap_set_datalink,
    pcap_set_immediate_mode,
    pcap_set_promisc,
    pcap_set_snaplen,
    pcap_set_timeout,
    pcap_set_tstamp_precision,
    pcap_set_tstamp_type,
    pcap_setdirection,
    pcap_setfilter,
    pcap_setnonblock,
    pcap_stat,
    pcap_stats,
    pcap_statustostr,
    pcap_tstamp_type_name_to_val,
    sockaddr,
)
from zbuf.shared.memory.abi cimport ZBUF_MAX_CAPLEN, zbuf_packet

from zbuf.producer.sources.live.netdevice import index_of, is_loopback, printable
from zbuf.shared.errors import FilterError, InterfaceError, ValueRefused

cdef extern from "zbuf/producer/sources/live/kernel_ring.h" nogil:
    void tpacket3_look(const ring_view *view, const pcap_pkthdr *captured, const uint8_t *data, zbuf_packet *packet)
    void tpacket2_look(const ring_view *view, const pcap_pkthdr *captured, const uint8_t *data, zbuf_packet *packet)
    void sll2_look(const ring_view *view, const pcap_pkthdr *captured, const uint8_t *data, zbuf_packet *packet)

cdef extern from "zbuf/producer/packet_filter.h" nogil:
    bint can_answer_loads(const bpf_insn *program, uint32_t instructions)

cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int fd, int level, int option, const void *value, unsigned size)

cdef extern from "<linux/if_packet.h>" nogil:
    enum:
        PACKET_IGNORE_OUTGOING

cdef enum:
    SOL_PACKET = 263
    BLOCK_TIMEOUT_MS = 10           # after which the kernel hands over a block of the ring that is not full
    SMALLEST_BUFFER_BYTES = 1 << 18

    LINKTYPE_ETHERNET = 1           # https://www.tcpdump.org/linktypes.html
    LINKTYPE_LINUX_SLL = 113
    LINKTYPE_LINUX_SLL2 = 276
    ETHERNET_TAG_AT = 12            # where libpcap puts a VLAN tag back
    SLL_TAG_AT = 14
    SLL_BYTES = 16
    SLL2_BYTES = 20

ANY = "any"
DIRECTIONS = {"inout": PCAP_D_INOUT, "in": PCAP_D_IN, "out": PCAP_D_OUT}
PRECISIONS = {"micro": PCAP_TSTAMP_PRECISION_MICRO, "nano": PCAP_TSTAMP_PRECISION_NANO}


@cython.final
cdef class LiveInterface:
    """One interface, open for capture; the kernel keeps packets in its ring from now on.

    Args:
        name: the interface's, as of os.fsdecode(); "any" for all interfaces.
        snaplen: bytes to capture of each packet.
        promiscuous: whether to see packets that are not addressed to this machine.
        buffer_bytes: the size of the kernel's ring.
        immediate: have each packet at once, at the price of a wake-up for each.
        direction: "in", "out" or "inout".
        expression: a pcap-filter(7), set before the first packet is taken.
        linktype: the name of a link type, as pcap_datalink_name_to_val(3PCAP) knows it; None for the usual one, which
            is LINUX_SLL2 for "any".
        time_stamp_type: who stamps packets, by its name in pcap-tstamp(7); None for the usual one.
        time_stamp_precision: "nano" or "micro".

    Raises:
        InterfaceError: there is none of that name, it is down, it lacks that link type, its link type has no number in
            files, or we may not capture on it.
        FilterError: the filter does not compile.
        ValueRefused: there is no such direction, link type, time stamp type or precision.
    """

    def __cinit__(self, str name not None, *, int snaplen=ZBUF_MAX_CAPLEN, bint promiscuous=True,
                  int buffer_bytes=16 << 20, bint immediate=False, direction="inout", str expression not None="",
                  linktype=None, time_stamp_type=None, time_stamp_precision="nano"):
        cdef char errbuf[PCAP_ERRBUF_SIZE]
        for given, known in ((direction, DIRECTIONS), (time_stamp_precision, PRECISIONS)):
            if given not in known:
                raise ValueRefused(f"{given!r}: it must be one of {', '.join(known)}")
        self.name = name
        self.shown = printable(name)
        self.warnings = []
        self.pcap = pcap_create(os.fsencode(name), errbuf)
        if self.pcap == NULL:
            raise InterfaceError(f"{self.shown}: {_text(errbuf)}")
        self._immediate = immediate
        pcap_set_snaplen(self.pcap, snaplen)
        pcap_set_promisc(self.pcap, promiscuous)
        pcap_set_timeout(self.pcap, BLOCK_TIMEOUT_MS)
        pcap_set_immediate_mode(self.pcap, immediate)
        pcap_set_tstamp_precision(self.pcap, PRECISIONS[time_stamp_precision])
        pcap_set_buffer_size(self.pcap, buffer_bytes)
        self._set_time_stamp_type(time_stamp_type)
        self._activate()
        self._set_linktype(linktype)
        if pcap_setnonblock(self.pcap, 1, errbuf) < 0 or pcap_get_selectable_fd(self.pcap) < 0:
            raise InterfaceError(f"{self.shown}: it can't be waited for: {_text(errbuf)}")
        self._set_direction(direction)
        self._set_view()
        self._set_filter(expression)

    def __dealloc__(self):
        if self.pcap != NULL:
            pcap_close(self.pcap)

    def _set_time_stamp_type(self, name):
        if name is None:
            return
        kind = pcap_tstamp_type_name_to_val(os.fsencode(name))
        if kind < 0:
            raise ValueRefused(f"time stamp type {name!r}: there is none of that name: see pcap-tstamp(7), and -J")
        status = pcap_set_tstamp_type(self.pcap, kind)
        if status:
            self._note(f"time stamp type {name}: {_text(pcap_statustostr(status))}", status < 0)

    def _activate(self):
        cdef int status
        with nogil:
            status = pcap_activate(self.pcap)
        if status < 0:
            raise InterfaceError(_why_not(self.shown, status, self.error()))
        if status > 0:
            self._note(self.error() or _text(pcap_statustostr(status)), False)

    def _note(self, what, is_error):
        """What libpcap says of the interface: an error, or a warning about one that can be captured on."""
        if is_error:
            raise InterfaceError(f"{self.shown}: {what}")
        self.warnings.append(f"{self.shown}: {what}")

    def _set_linktype(self, name):
        cdef int64_t linktype
        if name is not None:
            self._choose_linktype(name)
        elif self.name == ANY:
            pcap_set_datalink(self.pcap, pcap_datalink_name_to_val(b"LINUX_SLL2"))  # libpcap has it since 1.10
        linktype = linktype_of(self.pcap)
        if linktype < 0:
            raise InterfaceError(f"{self.shown}: its link type has no number in files: zbuf can't capture on it")
        self.linktype = <uint32_t>linktype

    def _choose_linktype(self, name):
        kind = pcap_datalink_name_to_val(os.fsencode(name))
        if kind < 0:
            raise ValueRefused(f"link type {name!r}: there is none of that name: -L lists those of an interface")
        if pcap_set_datalink(self.pcap, kind) < 0:
            raise InterfaceError(f"{self.shown}: {self.error()}: zbufd capture -i {self.shown} -L lists them")

    def _set_direction(self, direction):
        """Have libpcap leave packets out; and the kernel, where it can: they take no room in its ring then.

        The kernel shows every packet of a loopback interface twice, on its way out and on its way in; libpcap leaves
        the first of the two out.
        """
        cdef int yes = 1
        if direction != "inout" and pcap_setdirection(self.pcap, DIRECTIONS[direction]) < 0:
            raise InterfaceError(f"{self.shown}: {self.error()}")
        if direction == "in" or is_loopback(self.name):
            setsockopt(pcap_get_selectable_fd(self.pcap), SOL_PACKET, PACKET_IGNORE_OUTGOING, &yes, sizeof(yes))

    def _set_view(self):
        """How its packets are laid out in the kernel's ring; it has none where it is no network interface."""
        self.view.unit_ns = 1 if pcap_get_tstamp_precision(self.pcap) == PCAP_TSTAMP_PRECISION_NANO else 1000
        self.view.cooked_bytes = {LINKTYPE_LINUX_SLL: SLL_BYTES, LINKTYPE_LINUX_SLL2: SLL2_BYTES}.get(self.linktype, 0)
        self.view.tag_at = {LINKTYPE_ETHERNET: ETHERNET_TAG_AT, LINKTYPE_LINUX_SLL: SLL_TAG_AT}.get(self.linktype, 0)
        self.waits_first = not has_ring(self.name)
        if self.waits_first:
            self.look = NULL
        elif self.linktype == LINKTYPE_LINUX_SLL2:
            self.look = sll2_look
        else:
            self.look = tpacket2_look if self._immediate else tpacket3_look

    def _set_filter(self, str expression):
        cdef bpf_program program
        cdef bytes instructions = compile_on(self.pcap, expression, False)
        if not instructions:
            return
        program.bf_len = <unsigned>(len(instructions) // sizeof(bpf_insn))
        program.bf_insns = <bpf_insn *><char *>instructions
        if pcap_setfilter(self.pcap, &program) < 0:
            raise FilterError(f"filter '{expression}': {self.error()}")

    cdef str error(self):
        return _text(pcap_geterr(self.pcap))

    def statistics(self):
        """(received, dropped by the kernel, dropped by the interface) since it was opened; 64-bit.

        A packet that passed the filter counts as received even if it was dropped then (pcap_stats(3PCAP)).
        """
        cdef pcap_stat now
        if self.pcap != NULL and pcap_stats(self.pcap, &now) == 0:
            self._received += <uint32_t>(now.ps_recv - self._last.ps_recv)
            self._dropped += <uint32_t>(now.ps_drop - self._last.ps_drop)
            self._dropped_by_interface += <uint32_t>(now.ps_ifdrop - self._last.ps_ifdrop)
            self._last = now
        return self._received, self._dropped, self._dropped_by_interface

    def close(self):
        """Close it; its statistics stay."""
        self.statistics()
        if self.pcap != NULL:
            pcap_close(self.pcap)
            self.pcap = NULL


def has_ring(name):
    """Whether packets come through a packet socket, and its ring; they don't from netfilter, or from a USB bus."""
    return name == ANY or index_of(name) is not None


# ---- filters --------------------------------------------------------------------------------------------------------

# ldb [vlanp]: a program that begins with it knows of VLAN tags that the card took off, whatever else it asks for.
KNOWS_TAGS = (0x30).to_bytes(2, "little") + bytes(2) + (0xFFFFF030).to_bytes(4, "little")


@cython.final
cdef class LiveFilters:
    """Compiles filters for the packets of one interface as libpcap does for the kernel.

    libpcap compiles for the kernel only where a live interface is open, and two threads may not use one at a time. So
    this one is open for nothing else: it is bound to a protocol that no packet has, and it stays when the capture loses
    the interface.

    Args:
        name: the interface's; one that has_ring().
        linktype: as of LiveInterface.

    Raises:
        InterfaceError: it can't be opened.
    """

    cdef LiveInterface _interface
    cdef object _lock

    def __cinit__(self, str name not None, linktype=None):
        self._lock = threading.Lock()
        self._interface = LiveInterface(
            name, promiscuous=False, immediate=True, buffer_bytes=SMALLEST_BUFFER_BYTES, linktype=linktype)
        take_nothing(pcap_get_selectable_fd(self._interface.pcap), index_of(name) or 0)

    def compile(self, str expression not None, *, bint optimize=False):
        """The program of an expression, for Descriptor.set_filter(); `optimize` as of compile_filter().

        Raises:
            FilterError: it does not compile, or asks for what packets do not carry.
        """
        cdef bytes program
        with self._lock:
            if self._interface.pcap == NULL:
                raise FilterError(f"filter '{expression}': the live capture has ended")
            program = compile_on(self._interface.pcap, expression, optimize)
        if not can_answer_loads(<bpf_insn *><char *>program, <uint32_t>(len(program) // sizeof(bpf_insn))):
            raise FilterError(f"filter '{expression}': only the kernel can tell that: give it to zbufd capture")
        return KNOWS_TAGS + program if program else program

    def close(self):
        """Close it."""
        with self._lock:
            self._interface.close()


cdef extern from "<linux/if_ether.h>" nogil:
    enum:
        ETH_P_802_3                 # the kernel's own number for frames that have none: no packet comes with it

cdef extern from "<arpa/inet.h>" nogil:
    unsigned short htons(unsigned short number)

cdef extern from "<linux/if_packet.h>" nogil:
    enum:
        AF_PACKET
    cdef struct sockaddr_ll:
        unsigned short sll_family
        unsigned short sll_protocol
        int sll_ifindex

cdef extern from "<sys/socket.h>" nogil:
    int bind(int fd, const sockaddr *address, unsigned length)


cdef take_nothing(int fd, int index):
    """Have the kernel pass a packet socket by, so that it costs other packets nothing."""
    cdef sockaddr_ll address
    memset(&address, 0, sizeof(address))
    address.sll_family = AF_PACKET
    address.sll_protocol = htons(ETH_P_802_3)
    address.sll_ifindex = index
    bind(fd, <const sockaddr *>&address, sizeof(address))


# ---- errors ---------------------------------------------------------------------------------------------------------


cdef str _text(const char *message):
    return message.decode("utf-8", "backslashreplace")


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
