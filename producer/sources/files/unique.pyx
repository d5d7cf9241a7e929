"""Other IP addresses on each pass over a capture, so that what is replayed again is other flows, not the same ones.

An address is XORed with bits that the number of the pass makes: both directions of a flow stay one flow, whoever was in
a network with somebody else is so still, and no two passes give an address the same one.  The lowest bit of the number
goes to the highest bit that is changed, since the hosts of a capture differ in the lowest ones.

Checksums are brought up to date by what has changed (RFC 1624, equation 3): one that was wrong stays wrong.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t, uint8_t

cimport cython

from zbuf.producer.ring.contract cimport Rewriter

from zbuf.shared.errors import ValueRefused

cdef enum:  # LINKTYPE_ values
    BSD_NULL = 0
    ETHERNET = 1
    RAW = 101
    LOOP = 108
    LINUX_SLL = 113
    IPV4 = 228
    IPV6 = 229
    LINUX_SLL2 = 276

cdef enum:  # IP protocols
    HOP_BY_HOP = 0
    TCP = 6
    UDP = 17
    DCCP = 33
    ROUTING = 43
    FRAGMENT = 44
    ICMPV6 = 58
    DESTINATION_OPTIONS = 60
    OSPF = 89
    PIM = 103
    VRRP = 112
    MOBILITY = 135
    UDP_LITE = 136

cdef enum:
    HOME_ADDRESS = 0xC9             # a destination option
    NUMBERS = 0xFFFFFF              # of passes that differ

LINKTYPES = frozenset((BSD_NULL, ETHERNET, RAW, LOOP, LINUX_SLL, IPV4, IPV6, LINUX_SLL2))


@cython.final
cdef class UniqueAddresses(Rewriter):
    """Gives the packets of each pass but the first IPv4 and IPv6 addresses of its own.

    Of an IPv4 address the lower 24 bits change, of an IPv6 address bits 72 to 95. Addresses that are no single host's
    stay: IPv4's 0/8, 127/8 (loopback) and from 224/8 on (multicast, broadcast); IPv6's ff00::/8 (multicast) and ::/64
    (loopback, mapped IPv4). What is inside of a tunnel or an ICMP error stays, and so do ARP and whatever is not IP.
    After 16,777,215 passes the addresses begin again.

    The checksums of IPv4, TCP, UDP, UDP-Lite, DCCP and ICMPv6 change along, where they were captured, and over IPv6
    those of OSPF, PIM, VRRP and Mobile IPv6. A UDP checksum of 0 stays (RFC 768: there is none).

    Args:
        linktype: the packets' LINKTYPE_ value.

    Raises:
        ValueRefused: it is none of LINKTYPES.
    """

    cdef uint32_t _linktype

    def __cinit__(self, uint32_t linktype):
        if linktype not in LINKTYPES:
            known = ", ".join(str(one) for one in sorted(LINKTYPES))
            raise ValueRefused(f"link type {linktype}: addresses can be changed in packets of link types {known}")
        self._linktype = linktype

    cdef void rewrite(self, uint8_t *data, uint32_t caplen, uint64_t number) noexcept nogil:
        cdef int64_t at = ip_offset(self._linktype, data, caplen)
        cdef uint32_t bits = reversed_bits(<uint32_t>((number - 1) % NUMBERS) + 1)
        if at < 0 or at >= caplen:
            return
        if data[at] >> 4 == 4:
            rewrite_ipv4(data + at, <uint32_t>(caplen - at), bits)
        else:
            rewrite_ipv6(data + at, <uint32_t>(caplen - at), bits)

    def rewritten(self, bytes packet not None, uint64_t number):
        """A packet, as it is on pass `number`; 0 is the first, which changes nothing."""
        cdef bytes copy = PyBytes_FromStringAndSize(PyBytes_AS_STRING(packet), len(packet))
        if number and len(packet) > 1:  # Python has but one object for each shorter one
            self.rewrite(<uint8_t *>PyBytes_AS_STRING(copy), <uint32_t>len(packet), number)
        return copy


cdef uint32_t reversed_bits(uint32_t number) noexcept nogil:
    """The 24 bits of a number in the opposite order."""
    cdef uint32_t bits = 0
    cdef int _bit
    for _bit in range(24):
        bits = (bits << 1) | (number & 1)
        number >>= 1
    return bits


# ---- where the IP header is ------------------------------------------------------------------------------------------


cdef int64_t ip_offset(uint32_t linktype, const uint8_t *data, uint32_t caplen) noexcept nogil:
    """Where an IP header begins whose version is what is said before it; -1 where none does."""
    if linktype == RAW:
        return with_version(data, caplen, 0, 4 if caplen and data[0] >> 4 == 4 else 6)
    if linktype == IPV4 or linktype == IPV6:
        return with_version(data, caplen, 0, 4 if linktype == IPV4 else 6)
    if linktype == BSD_NULL or linktype == LOOP:
        return -1 if caplen < 4 else with_version(data, caplen, 4, family_version(data))
    if linktype == ETHERNET:
        return behind_tags(data, caplen, 12, 14)
    if linktype == LINUX_SLL:
        return behind_tags(data, caplen, 14, 16)
    return behind_tags(data, caplen, 0, 20)


cdef int64_t behind_tags(const uint8_t *data, uint32_t caplen, uint32_t type_at, uint32_t payload) noexcept nogil:
    """Skip VLAN tags, IEEE 802.1Q; where the EtherType and the payload of a link layer's header are is given."""
    cdef uint32_t ethertype
    while payload <= caplen:
        ethertype = load16(data + type_at)
        if ethertype == 0x0800:
            return with_version(data, caplen, payload, 4)
        if ethertype == 0x86DD:
            return with_version(data, caplen, payload, 6)
        if ethertype != 0x8100 and ethertype != 0x88A8 and ethertype != 0x9100:
            return -1
        type_at = payload + 2
        payload += 4
    return -1


cdef int64_t with_version(const uint8_t *data, uint32_t caplen, uint32_t at, uint32_t version) noexcept nogil:
    return at if at < caplen and data[at] >> 4 == version else -1


cdef uint32_t family_version(const uint8_t *data) noexcept nogil:
    """The IP version of an address family: of whichever BSD, and in either byte order."""
    cdef uint32_t family = data[0] | data[3]
    if data[1] or data[2] or (data[0] and data[3]):
        return 0
    if family == 2:
        return 4
    return 6 if family in (10, 24, 28, 30) else 0


# ---- IP --------------------------------------------------------------------------------------------------------------


cdef void rewrite_ipv4(uint8_t *ip, uint32_t caplen, uint32_t bits) noexcept nogil:
    """RFC 791."""
    cdef uint32_t header, length, change
    if caplen < 20:
        return
    header = 4 * (ip[0] & 0xF)
    length = load16(ip + 2)
    if header < 20:
        return
    change = change_ipv4(ip + 12, bits) + change_ipv4(ip + 16, bits)
    update(ip + 10, change)
    if length == 0 or length > caplen:  # the kernel's, before the card has cut it into segments; or cut by the capture
        length = caplen
    if load16(ip + 6) & 0x1FFF == 0 and header < length and ip[9] != ICMPV6:
        update_transport(ip + header, length - header, ip[9], change)


cdef uint32_t change_ipv4(uint8_t *address, uint32_t bits) noexcept nogil:
    """Change an address; returns what that adds to a checksum."""
    cdef uint32_t change
    if address[0] == 0 or address[0] == 127 or address[0] >= 224:
        return 0
    change = (load16(address) ^ 0xFFFF) + (load16(address + 2) ^ 0xFFFF)
    change_bits(address + 1, bits)
    return change + load16(address) + load16(address + 2)


cdef void rewrite_ipv6(uint8_t *ip, uint32_t caplen, uint32_t bits) noexcept nogil:
    """RFC 8200."""
    cdef uint32_t length, source_change, target_change
    if caplen < 40:
        return
    source_change, target_change = change_ipv6(ip + 8, bits), change_ipv6(ip + 24, bits)
    length = load16(ip + 4)
    if length == 0 or length > caplen - 40:
        length = caplen - 40
    update_behind_extensions(ip + 40, length, ip[6], source_change, target_change)


cdef uint32_t change_ipv6(uint8_t *address, uint32_t bits) noexcept nogil:
    cdef uint32_t change
    cdef uint8_t prefix = 0
    cdef int at
    for at in range(8):
        prefix |= address[at]
    if prefix == 0 or address[0] == 0xFF:
        return 0
    change = (load16(address + 8) ^ 0xFFFF) + (load16(address + 10) ^ 0xFFFF)
    change_bits(address + 9, bits)
    return change + load16(address + 8) + load16(address + 10)


cdef void update_behind_extensions(
    uint8_t *data, uint32_t length, uint8_t protocol, uint32_t source_change, uint32_t target_change
) noexcept nogil:
    """Find the transport header of an IPv6 packet, if this is not a later fragment, and bring its checksum up to date.

    Where a routing header has segments left, the checksum is made with the last of its addresses, which we leave; where
    there is a home address (RFC 6275, 6.3), with that in place of the source.
    """
    cdef uint32_t header
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
        if length < 8 or (protocol == FRAGMENT and load16(data + 2) >> 3):
            return
        if protocol == ROUTING and data[3]:
            target_change = 0
        header = 8 if protocol == FRAGMENT else 8 * (data[1] + 1)
        if header > length:
            return
        if protocol == DESTINATION_OPTIONS and has_home_address(data, header):
            source_change = 0
        protocol = data[0]
        data += header
        length -= header
    if protocol in (OSPF, PIM, VRRP, MOBILITY):
        update_ipv6_only(data, length, protocol, source_change + target_change)
    else:
        update_transport(data, length, protocol, source_change + target_change)


cdef bint has_home_address(const uint8_t *options, uint32_t length) noexcept nogil:
    cdef uint32_t at = 2
    while at + 1 < length and options[at] != HOME_ADDRESS:
        at += 2 + options[at + 1] if options[at] else 1
    return at + 18 <= length


# ---- checksums -------------------------------------------------------------------------------------------------------


cdef void update_transport(uint8_t *data, uint32_t length, uint8_t protocol, uint32_t change) noexcept nogil:
    """Bring a checksum up to date whose pseudo header has the addresses in it, if it was captured."""
    cdef uint32_t at
    if protocol == TCP:
        at = 16
    elif protocol == ICMPV6:
        at = 2
    elif protocol in (UDP, UDP_LITE, DCCP):
        at = 6
    else:
        return
    if at + 2 > length or (protocol == UDP and load16(data + at) == 0):
        return
    update(data + at, change)
    if protocol == UDP and load16(data + at) == 0:
        store16(data + at, 0xFFFF)


cdef void update_ipv6_only(uint8_t *data, uint32_t length, uint8_t protocol, uint32_t change) noexcept nogil:
    """The same for protocols whose checksum has addresses in it over IPv6 only."""
    cdef uint32_t at = 12 if protocol == OSPF else 2 if protocol == PIM else 6 if protocol == VRRP else 4
    if at + 2 <= length:
        update(data + at, change)


cdef void update(uint8_t *checksum, uint32_t change) noexcept nogil:
    """RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), `change` being the sum of all ~m and m'."""
    cdef uint32_t sum
    if change == 0:
        return
    sum = (load16(checksum) ^ 0xFFFF) + change
    while sum >> 16:
        sum = (sum & 0xFFFF) + (sum >> 16)
    store16(checksum, sum ^ 0xFFFF)


cdef void change_bits(uint8_t *at, uint32_t bits) noexcept nogil:
    at[0] ^= bits >> 16
    at[1] ^= (bits >> 8) & 0xFF
    at[2] ^= bits & 0xFF


cdef uint32_t load16(const uint8_t *at) noexcept nogil:
    return <uint32_t>at[0] << 8 | at[1]


cdef void store16(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>(value & 0xFF)
