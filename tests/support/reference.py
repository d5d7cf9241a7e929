"""A second reader of pcap and pcapng files, in plain Python, and files for both readers to disagree about.

It knows nothing of the product: what it makes of a file is written down here from the drafts (draft-ietf-opsawg-pcap,
draft-ietf-opsawg-pcapng) with struct alone, slowly and in the order of the text.
"""

import struct
from dataclasses import dataclass, field

SECTION, INTERFACE, OLD_PACKET, SIMPLE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 2, 3, 5, 6
LONGEST_BLOCK = 16 << 20
LONGEST_PACKET = 128 << 20
MOST_CAPTURED = 262_144
LARGE_LINKTYPES = (189, 220, 249, 231, 279)
LEAST = {SECTION: 28, INTERFACE: 20, OLD_PACKET: 32, SIMPLE: 16, STATISTICS: 24, PACKET: 32, 10: 20, 0xBAD: 16}
LEAST[0x40000BAD] = 16
LAST_NS = 2**64 - 1
PCAP_MAGICS = {
    0xA1B2C3D4: (1000, 0, 16),
    0xA1B23C4D: (1, 0, 16),
    0xA1B2CD34: (1000, 0, 24),
    0x1C0001AC: (1, 4, 16),
    0x1C0001AB: (1000, 4, 16),
}
"""Nanoseconds of a tick, bytes more in the file's header, bytes before a packet's data."""
AIX_LINKTYPES = {6: 1, 9: 6, 15: 10, 24: 0}
"""The interface types in AIX's files of version 2.2, which have nanoseconds."""


@dataclass(frozen=True)
class Packet:
    """A packet as a file has it; at most a byte more than MOST_CAPTURED of it."""

    data: bytes
    time_ns: int
    wirelen: int
    interface: int
    flags: int = 0
    dropped: int = 0
    options: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class Face:
    """An interface."""

    linktype: int
    snaplen: int
    resolution: int = 6
    offset_s: int = 0
    options: tuple[tuple[int, bytes], ...] = ()


@dataclass
class Found:
    """What a file has, up to where it is damaged."""

    faces: list[Face] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    saturated: int = 0
    damaged_at: int | None = None


class _Damaged(Exception):
    pass


def read(image: bytes) -> Found:
    """Everything that is whole in a file."""
    found = Found()
    offset = [0]
    try:
        if image[:4] == b"\n\r\r\n":
            _read_pcapng(image, found, offset)
        else:
            _read_pcap(image, found, offset)
    except _Damaged:
        found.damaged_at = offset[0]
    return found


def _need(condition: bool) -> None:
    if not condition:
        raise _Damaged


# ---- pcap ------------------------------------------------------------------------------------------------------------


def _read_pcap(image: bytes, found: Found, offset: list[int]) -> None:
    _need(len(image) >= 4)
    order = next((one for one in "<>" if struct.unpack(f"{one}I", image[:4])[0] in PCAP_MAGICS), "")
    _need(order != "")
    tick_ns, more, head = PCAP_MAGICS[struct.unpack(f"{order}I", image[:4])[0]]
    _need(len(image) >= 24 + more)
    major, minor, snaplen, linktype = struct.unpack_from(f"{order}HH8xII", image, 4)
    _need(major in (2, 543))
    if (order, image[:4]) in (("<", b"\xd4\xc3\xb2\xa1"), (">", b"\xa1\xb2\xc3\xd4")) and (major, minor) == (2, 2):
        tick_ns = 1 if linktype in AIX_LINKTYPES else tick_ns
        linktype = AIX_LINKTYPES.get(linktype, linktype)
    fcs = ((13, bytes([16 * (linktype >> 28)])),) if linktype >> 26 & 1 else ()
    found.faces.append(Face(linktype & 0xFFFF, snaplen, options=fcs))
    offset[0] = 24 + more
    while offset[0] < len(image):
        _need(len(image) - offset[0] >= head)
        seconds, ticks, caplen, wirelen = struct.unpack_from(f"{order}4I", image, offset[0])
        if (major, minor) < (2, 3) or major == 543 or ((major, minor) == (2, 3) and caplen > wirelen):
            caplen, wirelen = wirelen, caplen
        _need(caplen <= (LONGEST_PACKET if linktype & 0xFFFF in LARGE_LINKTYPES else MOST_CAPTURED))
        _need(len(image) - offset[0] - head >= caplen)
        data = image[offset[0] + head : offset[0] + head + caplen]
        time_ns = seconds * 1_000_000_000 + ticks * tick_ns
        found.packets.append(Packet(data[: MOST_CAPTURED + 1], time_ns, wirelen, 0))
        offset[0] += head + caplen


# ---- pcapng ----------------------------------------------------------------------------------------------------------


def _read_pcapng(image: bytes, found: Found, offset: list[int]) -> None:
    order, section, large = "<", 0, False
    while offset[0] < len(image):
        at = offset[0]
        _need(len(image) - at >= 12)
        (kind,) = struct.unpack_from(f"{order}I", image, at)
        if kind == SECTION:
            magic = image[at + 8 : at + 12]
            _need(magic in (b"\x1a\x2b\x3c\x4d", b"\x4d\x3c\x2b\x1a"))
            order = ">" if magic[0] == 0x1A else "<"
        (total,) = struct.unpack_from(f"{order}I", image, at + 4)
        _need(total >= LEAST.get(kind, 12))
        _need(total <= (LONGEST_PACKET + LONGEST_BLOCK if large else LONGEST_BLOCK))
        whole = total + -total % 4
        _need(len(image) - at >= whole)
        _need(struct.unpack_from(f"{order}I", image, at + whole - 4)[0] in (total, whole))
        body = image[at + 8 : at + whole - 4]
        if kind == SECTION:
            _need(struct.unpack_from(f"{order}H", body, 4) == (1,))
            section = len(found.faces)
        elif kind == INTERFACE:
            _need(len(found.faces) < 65536)
            found.faces.append(_face(order, body))
            large |= found.faces[-1].linktype in LARGE_LINKTYPES
        elif kind in (PACKET, OLD_PACKET):
            found.packets.append(_packet(order, kind, body, found, section))
        elif kind == SIMPLE:
            found.packets.append(_simple_packet(order, body, found, section))
        offset[0] += whole


def _face(order: str, body: bytes) -> Face:
    linktype, _, snaplen = struct.unpack_from(f"{order}HHI", body)
    options = options_of(order, body[8:])
    resolution, offset_s = 6, 0
    for code, value in options:
        if code == 9 and len(value) == 1:
            resolution = value[0]
        elif code == 14 and len(value) == 8:
            (offset_s,) = struct.unpack(f"{order}q", value)
    return Face(linktype, snaplen, resolution, offset_s, tuple(_in_order(order, options, {8: "Q", 14: "q"})))


def _packet(order: str, kind: int, body: bytes, found: Found, section: int) -> Packet:
    number, high, low, caplen, wirelen = struct.unpack_from(f"{order}5I", body)
    dropped = 0
    if kind == OLD_PACKET:
        number, dropped = struct.unpack_from(f"{order}HH", body)
        dropped = 0 if dropped == 0xFFFF else dropped
    _need(number < len(found.faces) - section)
    _need(caplen <= len(body) - 20)
    time_ns = _time(found, found.faces[section + number], high << 32 | low)
    options = options_of(order, body[20 + caplen + -caplen % 4 :])
    flags = 0
    for code, value in options:
        if code == 2 and len(value) == 4:
            (flags,) = struct.unpack(f"{order}I", value)
        elif code == 4 and len(value) == 8 and kind == PACKET:
            (dropped,) = struct.unpack(f"{order}Q", value)
    data = body[20 : 20 + caplen][: MOST_CAPTURED + 1]
    options = _in_order(order, options, {2: "I", 4: "Q", 5: "Q", 6: "I"})
    return Packet(data, time_ns, wirelen, section + number, flags, dropped, tuple(options))


def _simple_packet(order: str, body: bytes, found: Found, section: int) -> Packet:
    _need(len(found.faces) > section)
    (wirelen,) = struct.unpack_from(f"{order}I", body)
    caplen = min(wirelen, found.faces[section].snaplen or wirelen)
    _need(caplen <= len(body) - 4)
    return Packet(body[4 : 4 + caplen][: MOST_CAPTURED + 1], 0, wirelen, section)


def _time(found: Found, face: Face, ticks: int) -> int:
    per_second = int((2 if face.resolution & 0x80 else 10) ** (face.resolution & 0x7F))
    time_ns = ticks * 1_000_000_000 // per_second + face.offset_s * 1_000_000_000
    found.saturated += not 0 <= time_ns <= LAST_NS
    return min(max(time_ns, 0), LAST_NS)


def options_of(order: str, data: bytes) -> list[tuple[int, bytes]]:
    """A list of options, up to its end."""
    found, offset = [], 0
    while len(data) - offset >= 4:
        code, length = struct.unpack_from(f"{order}HH", data, offset)
        if code == 0 or length > len(data) - offset - 4:
            break
        found.append((code, data[offset + 4 : offset + 4 + length]))
        offset += 4 + length + -length % 4
    return found


def _in_order(order: str, options: list[tuple[int, bytes]], numbers: dict[int, str]) -> list[tuple[int, bytes]]:
    """The options with the numbers in them little-endian."""
    turned = []
    for code, value in options:
        form = "I" if code in (2988, 2989, 19372, 19373) else numbers.get(code, "")
        size = struct.calcsize(f"<{form}") if form else 0
        one_only = code in (2988, 2989, 19372, 19373)
        if order == ">" and size and len(value) >= size:
            count = 1 if one_only else len(value) // size
            parts = struct.unpack_from(f">{count}{form}", value)
            value = struct.pack(f"<{count}{form}", *parts) + value[count * size :]
        turned.append((code, value))
    return turned


# ---- making ----------------------------------------------------------------------------------------------------------


def block(order: str, kind: int, body: bytes) -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    total = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + total + body + total


def option(order: str, code: int, value: bytes) -> bytes:
    """An option of a block."""
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", *, major: int = 1, minor: int = 0, options: bytes = b"") -> bytes:
    """A Section Header Block."""
    return block(order, SECTION, struct.pack(f"{order}IHHq", 0x1A2B3C4D, major, minor, -1) + options)


def interface(
    order: str = "<",
    linktype: int = 1,
    snaplen: int = 262144,
    *,
    resolution: int | None = None,
    offset_s: int | None = None,
    options: bytes = b"",
) -> bytes:
    """An Interface Description Block."""
    if resolution is not None:
        options = option(order, 9, bytes([resolution])) + options
    if offset_s is not None:
        options += option(order, 14, struct.pack(f"{order}q", offset_s))
    return block(order, INTERFACE, struct.pack(f"{order}HHI", linktype, 0, snaplen) + options + bytes(4))


def packet(
    data: bytes, ticks: int, number: int = 0, *, order: str = "<", wirelen: int | None = None, options: bytes = b""
) -> bytes:
    """An Enhanced Packet Block."""
    wirelen = len(data) if wirelen is None else wirelen
    head = struct.pack(f"{order}5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), wirelen)
    return block(order, PACKET, head + data + bytes(-len(data) % 4) + options)


def old_packet(data: bytes, ticks: int, number: int, drops: int, *, order: str = "<", options: bytes = b"") -> bytes:
    """An obsolete Packet Block."""
    head = struct.pack(f"{order}HH4I", number, drops, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(order, OLD_PACKET, head + data + bytes(-len(data) % 4) + options)


def simple_packet(data: bytes, wirelen: int, *, order: str = "<") -> bytes:
    """A Simple Packet Block."""
    return block(order, SIMPLE, struct.pack(f"{order}I", wirelen) + data)
