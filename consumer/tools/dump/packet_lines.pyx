"""A line for each packet in the form of tcpdump -n, for where tcpdump itself can't print it.

A line has numbers, addresses, and words that stand here: nothing of a packet gets into it as text. So a packet has no
way to forge a line, or to send something to the terminal.

The functions below each write a part of the line for the bytes that are there, and return where the next part begins.
A line takes up less than LINE_BYTES, whatever is in the packet: each part is there once, and is of bounded width.

Source: tcpdump's print-ether.c, print-ip.c, print-tcp.c and their like, for the wording.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t, uint16_t
from libc.stdio cimport sprintf
from libc.stdlib cimport free, malloc, realloc
from libc.time cimport localtime_r, strftime, time_t, tm

from zbuf.consumer.reading.blocks cimport next_block
from zbuf.consumer.reading.buffer cimport Buffer
from zbuf.shared.memory.abi cimport zbuf_packet

from zbuf.shared.errors import CorruptBuffer

cdef extern from "<arpa/inet.h>" nogil:
    int AF_INET6
    const char *inet_ntop(int family, const void *address, char *text, uint32_t size)

cdef enum:
    LINE_BYTES = 1024
    NAME_BYTES = 64
    SECOND_NS = 1000000000
    ADDRESS_BYTES = 48              # of an IPv6 address as text
    VLAN_TAGS = 8
    EXTENSION_HEADERS = 8

cdef enum:                          # -t, -tt, -ttt, -tttt, -ttttt
    OF_DAY, NO_TIME, SINCE_1970, SINCE_LAST, OF_DATE, SINCE_FIRST


# ---- lines ----------------------------------------------------------------------------------------------------------


cdef class PacketLines:
    """Makes the lines of a dump.

    Args:
        times: how often tcpdump's -t was given.
        numbers: whether each line begins with the packet's number, as with tcpdump's -#.
        nanoseconds: whether times have nine decimals, not six.
    """

    cdef int _times
    cdef bint _numbers, _nanoseconds
    cdef uint64_t _count, _first_ns, _last_ns
    cdef time_t _second             # whose text is in _of_second
    cdef char _of_second[64]
    cdef list _linktypes, _names

    def __init__(self, int times=0, bint numbers=False, bint nanoseconds=False):
        self._times = min(times, <int>SINCE_FIRST)
        self._numbers = numbers
        self._nanoseconds = nanoseconds
        self._second = -1

    def describe(self, list linktypes, list names):
        """Say what the interfaces are.

        Args:
            linktypes: the LINKTYPE_ value of each.
            names: the name of each, as printable bytes, if lines are to have them; else an empty list.
        """
        self._linktypes = linktypes
        self._names = [name[:NAME_BYTES] for name in names]

    def lines(self, Buffer buffer, uint32_t last):
        """The lines of a buffer's packets before number `last`, and a line wherever packets were lost.

        Raises:
            CorruptBuffer: the buffer holds something else than whole packet blocks.
        """
        cdef size_t room = 256 * LINE_BYTES, used = 0
        cdef char *text = <char *>malloc(room)
        cdef uint32_t offset = 0
        cdef uint32_t number
        cdef zbuf_packet packet
        try:
            for number in range(last):
                if room - used < 2 * LINE_BYTES:
                    room *= 2
                    text = grown(text, room)
                if text == NULL:
                    raise MemoryError
                offset = next_block(buffer._blocks, buffer._length, offset, buffer._limits, &packet)
                if offset == 0 or packet.data == NULL:
                    raise CorruptBuffer(f"buffer {buffer.sequence}: damaged after {number} packets")
                used = self._line(text + used, &packet) - text
            return PyBytes_FromStringAndSize(text, used)
        finally:
            free(text)

    cdef char *_line(self, char *at, const zbuf_packet *packet) except NULL:
        if packet.dropped:
            at += sprintf(at, "zbuf: %llu packet%s lost here\n", <unsigned long long>packet.dropped,
                          <const char *>(" was" if packet.dropped == 1 else "s were"))
        self._count += 1
        if self._numbers:
            at += sprintf(at, "%5llu  ", <unsigned long long>self._count)
        at = self._time(at, packet.time_ns)
        if self._names:
            at = self._interface(at, packet)
        at = link(at, self._linktypes[packet.interface_id], packet.data, packet.caplen, packet.wirelen)
        at[0] = b"\n"
        return at + 1

    cdef char *_interface(self, char *at, const zbuf_packet *packet) except NULL:
        """As tcpdump -i any: the interface's name, and the direction."""
        cdef bytes name = self._names[packet.interface_id]
        cdef const char *direction = b"In" if packet.direction == 1 else b"Out" if packet.direction == 2 else b"?"
        return at + sprintf(at, "%-5s %-3s ", <const char *>name, direction)

    # ---- times ------------------------------------------------------------------------------------------------------

    cdef char *_time(self, char *at, uint64_t time_ns) noexcept:
        cdef uint64_t since = self._last_ns if self._times == SINCE_LAST else self._first_ns
        if self._count == 1:
            self._first_ns = since = time_ns
        self._last_ns = time_ns
        if self._times == NO_TIME:
            return at
        if self._times in (SINCE_LAST, SINCE_FIRST):
            return self._difference(at, <int64_t>(time_ns - since))
        if self._times == SINCE_1970:
            at += sprintf(at, "%llu", <unsigned long long>(time_ns // SECOND_NS))
        else:
            at = self._of_clock(at, <time_t>(time_ns // SECOND_NS))
        return self._fraction(at, time_ns % SECOND_NS)

    cdef char *_of_clock(self, char *at, time_t second) noexcept:
        """The time of day; the last one is kept, since many packets are of one second."""
        cdef tm fields
        if second != self._second:
            localtime_r(&second, &fields)
            strftime(self._of_second, sizeof(self._of_second),
                     "%Y-%m-%d %H:%M:%S" if self._times == OF_DATE else "%H:%M:%S", &fields)
            self._second = second
        return at + sprintf(at, "%s", self._of_second)

    cdef char *_difference(self, char *at, int64_t passed) noexcept:
        cdef uint64_t size = <uint64_t>(-passed if passed < 0 else passed)
        cdef unsigned long long seconds = size // SECOND_NS
        at += sprintf(at, "%c%02llu:%02llu:%02llu", c"-" if passed < 0 else c" ",
                      seconds // 3600, seconds // 60 % 60, seconds % 60)
        return self._fraction(at, size % SECOND_NS)

    cdef char *_fraction(self, char *at, uint64_t nanoseconds) noexcept:
        if self._nanoseconds:
            return at + sprintf(at, ".%09llu ", <unsigned long long>nanoseconds)
        return at + sprintf(at, ".%06llu ", <unsigned long long>(nanoseconds // 1000))


cdef char *grown(char *text, size_t room) noexcept:
    """A larger piece of memory with the same text; NULL if there is none, and the old one is freed."""
    cdef char *larger = <char *>realloc(text, room)
    if larger == NULL:
        free(text)
    return larger


# ---- link layers ----------------------------------------------------------------------------------------------------


cdef inline uint16_t u16(const uint8_t *at) noexcept nogil:
    return <uint16_t>(at[0] << 8 | at[1])


cdef inline uint32_t u32(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 24 | <uint32_t>at[1] << 16 | <uint32_t>at[2] << 8 | at[3]


cdef char *link(char *at, int linktype, const uint8_t *data, uint32_t size, uint32_t wirelen) noexcept nogil:
    """A packet of a link type, of which `size` bytes are there; `wirelen` were on the wire."""
    if linktype == 1:  # ETHERNET
        return ethernet(at, data, size, wirelen)
    if linktype in (12, 14, 101, 228, 229) and size:  # RAW, IPV4, IPV6
        return ip(at, data, size)
    if linktype == 113 and size >= 16:  # LINUX_SLL
        return network(at, u16(data + 14), data + 16, size - 16, wirelen)
    if linktype == 276 and size >= 20:  # LINUX_SLL2
        return network(at, u16(data), data + 20, size - 20, wirelen)
    if linktype in (0, 108) and size > 4:  # NULL and LOOP: a family of addresses, in somebody's order of bytes
        return ip(at, data + 4, size - 4)
    return other(at, linktype, data, size, wirelen)


cdef char *other(char *at, int linktype, const uint8_t *data, uint32_t size, uint32_t wirelen) noexcept nogil:
    cdef uint32_t i
    at += sprintf(at, "link type %d, length %u: ", linktype, wirelen)
    for i in range(min(size, 32)):
        at += sprintf(at, "%02x", <int>data[i])
    return at


cdef char *ethernet(char *at, const uint8_t *data, uint32_t size, uint32_t wirelen) noexcept nogil:
    cdef uint32_t head = 14, tags = 0
    cdef uint16_t ethertype
    if size < head:
        return at + sprintf(at, " [|ether]")
    ethertype = u16(data + 12)
    while ethertype in (0x8100, 0x88a8, 0x9100) and size >= head + 4 and tags < VLAN_TAGS:
        ethertype = u16(data + head + 2)
        head += 4
        tags += 1
    if ethertype in (0x0800, 0x86dd, 0x0806):
        return network(at, ethertype, data + head, size - head, wirelen)
    at = mac(at, data + 6)
    at += sprintf(at, " > ")
    at = mac(at, data)
    if ethertype < 1536:
        return at + sprintf(at, ", 802.3, length %u", <unsigned>ethertype)
    return at + sprintf(at, ", ethertype 0x%04x, length %u", <unsigned>ethertype, wirelen)


cdef char *mac(char *at, const uint8_t *data) noexcept nogil:
    return at + sprintf(at, "%02x:%02x:%02x:%02x:%02x:%02x", <int>data[0], <int>data[1], <int>data[2], <int>data[3],
                        <int>data[4], <int>data[5])


cdef char *network(char *at, uint16_t ethertype, const uint8_t *data, uint32_t size, uint32_t wirelen) noexcept nogil:
    """What an ethertype says."""
    if ethertype in (0x0800, 0x86dd):
        return ip(at, data, size)
    if ethertype == 0x0806:
        return arp(at, data, size)
    return at + sprintf(at, "ethertype 0x%04x, length %u", <unsigned>ethertype, wirelen)


cdef char *arp(char *at, const uint8_t *data, uint32_t size) noexcept nogil:
    if size < 28 or u16(data + 2) != 0x0800 or data[4] != 6 or data[5] != 4:
        return at + sprintf(at, "ARP, length %u", size)
    if u16(data + 6) == 1:
        at += sprintf(at, "ARP, Request who-has ")
        at = ip4_address(at, data + 24)
        at += sprintf(at, " tell ")
        at = ip4_address(at, data + 14)
    else:
        at += sprintf(at, "ARP, Reply " if u16(data + 6) == 2 else "ARP, operation %u, ", <unsigned>u16(data + 6))
        at = ip4_address(at, data + 14)
        at += sprintf(at, " is-at ")
        at = mac(at, data + 8)
    return at + sprintf(at, ", length %u", size)


# ---- IP -------------------------------------------------------------------------------------------------------------


cdef struct ends:
    const uint8_t *source
    const uint8_t *destination
    bint six


cdef char *ip4_address(char *at, const uint8_t *data) noexcept nogil:
    return at + sprintf(at, "%d.%d.%d.%d", <int>data[0], <int>data[1], <int>data[2], <int>data[3])


cdef char *address(char *at, const uint8_t *data, bint six, int port) noexcept nogil:
    """An address, and a port unless that is negative."""
    cdef char text[ADDRESS_BYTES]
    if six:
        inet_ntop(AF_INET6, data, text, ADDRESS_BYTES)
        at += sprintf(at, "%s", text)
    else:
        at = ip4_address(at, data)
    return at + sprintf(at, ".%d", port) if port >= 0 else at


cdef char *both(char *at, ends who, int source_port, int destination_port) noexcept nogil:
    """From whom, and to whom."""
    at = address(at, who.source, who.six, source_port)
    at += sprintf(at, " > ")
    at = address(at, who.destination, who.six, destination_port)
    return at + sprintf(at, ": ")


cdef char *ip(char *at, const uint8_t *data, uint32_t size) noexcept nogil:
    """An IP packet of either version."""
    cdef int version = data[0] >> 4 if size else 0
    if version == 4 and size >= 20 and (data[0] & 15) >= 5:
        return ip4(at, data, size)
    if version == 6 and size >= 40:
        return ip6(at, data, size)
    return at + sprintf(at, "IP  [|ip]")


cdef char *ip4(char *at, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint32_t head = (data[0] & 15) * 4, total = u16(data + 2)
    cdef ends who
    who.source, who.destination, who.six = data + 12, data + 16, False
    if total == 0:  # the network card cuts it into packets later
        total = size
    at += sprintf(at, "IP ")
    if head > size or total < head:
        at = both(at, who, -1, -1)
        return at + sprintf(at, "bad length %u", total)
    if u16(data + 6) & 0x1fff:  # not the first fragment: there are no ports
        at = both(at, who, -1, -1)
        return at + sprintf(at, "ip-proto-%d", <int>data[9])
    return transport(at, who, data[9], data + head, min(size, total) - head, total - head)


cdef char *ip6(char *at, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint32_t length = u16(data + 4), used = 0, step, headers = 0
    cdef uint32_t left = min(size - 40, length) if length else size - 40
    cdef uint8_t protocol = data[6]
    cdef const uint8_t *rest
    cdef ends who
    who.source, who.destination, who.six = data + 8, data + 24, True
    at += sprintf(at, "IP6 ")
    length = length or left
    while protocol in (0, 43, 44, 51, 60) and left - used >= 8 and headers < EXTENSION_HEADERS:
        rest = data + 40 + used
        if protocol == 44 and u16(rest + 2) & 0xfff8:
            at = both(at, who, -1, -1)
            return at + sprintf(at, "frag, ip-proto-%d", <int>rest[0])
        step = 8 if protocol == 44 else (rest[1] + 2) * 4 if protocol == 51 else (rest[1] + 1) * 8
        if step > left - used:
            break
        protocol = rest[0]
        used += step
        headers += 1
    return transport(at, who, protocol, data + 40 + used, left - used, length - used)


cdef char *transport(char *at, ends who, uint8_t protocol, const uint8_t *data, uint32_t size,
                     uint32_t length) noexcept nogil:
    """What is in an IP packet: `size` bytes of it are there, of `length`."""
    if protocol == 6:
        return tcp(at, who, data, size, length)
    if protocol == 17 and size >= 8:
        at = both(at, who, u16(data), u16(data + 2))
        return at + sprintf(at, "UDP, length %d", <int>u16(data + 4) - 8)
    if protocol == 17:
        at = both(at, who, u16(data), u16(data + 2)) if size >= 4 else both(at, who, -1, -1)
        return at + sprintf(at, " [|udp]")
    at = both(at, who, -1, -1)
    if protocol in (1, 58):
        return icmp(at, protocol, data, size, length)
    return at + sprintf(at, " ip-proto-%d %u", <int>protocol, length)


cdef char *tcp(char *at, ends who, const uint8_t *data, uint32_t size, uint32_t length) noexcept nogil:
    cdef uint32_t head, payload
    if size < 20:
        at = both(at, who, u16(data), u16(data + 2)) if size >= 4 else both(at, who, -1, -1)
        return at + sprintf(at, " [|tcp]")
    at = both(at, who, u16(data), u16(data + 2))
    head = (data[12] >> 4) * 4
    payload = length - head if length >= head else 0
    at += sprintf(at, "Flags [")
    at = flags(at, data[13])
    at += sprintf(at, "]")
    if payload or data[13] & 0x07:  # FIN, SYN, RST
        at += sprintf(at, ", seq %u", u32(data + 4))
        if payload:
            at += sprintf(at, ":%u", u32(data + 4) + payload)
    if data[13] & 0x10:
        at += sprintf(at, ", ack %u", u32(data + 8))
    at += sprintf(at, ", win %u", <unsigned>u16(data + 14))
    if data[13] & 0x20:
        at += sprintf(at, ", urg %u", <unsigned>u16(data + 18))
    return at + sprintf(at, ", length %u", payload)


cdef char *flags(char *at, uint8_t bits) noexcept nogil:
    """TCP's flags, in tcpdump's letters and order."""
    cdef const char *letters = "FSRP.UEW"
    cdef int bit
    if bits == 0:
        return at + sprintf(at, "none")
    for bit in range(8):
        if bits >> bit & 1:
            at[0] = letters[bit]
            at += 1
    return at


cdef char *icmp(char *at, uint8_t protocol, const uint8_t *data, uint32_t size, uint32_t length) noexcept nogil:
    cdef const char *name = "ICMP" if protocol == 1 else "ICMP6,"
    cdef int request = 8 if protocol == 1 else 128, reply = 0 if protocol == 1 else 129
    if size < 8:
        return at + sprintf(at, "%s [|icmp]", name)
    if data[0] == request or data[0] == reply:
        return at + sprintf(at, "%s echo %s, id %u, seq %u, length %u", name,
                            <const char *>"request" if data[0] == request else <const char *>"reply",
                            <unsigned>u16(data + 4), <unsigned>u16(data + 6), length)
    return at + sprintf(at, "%s type %d, code %d, length %u", name, <int>data[0], <int>data[1], length)
