"""Small captures made with struct, and a strict reader of capture files.

Both are independent of the product and of libpcap, so a test that compares with them has a second opinion.

Sources: draft-ietf-opsawg-pcap sections 4 and 5, draft-ietf-opsawg-pcapng sections 4.1 to 4.4.
"""

import gzip
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Order = Literal["<", ">"]

ETHERNET = 1
RAW_IP = 101
DBUS = 231
SNAPLEN = 262144
SIZES = (1, 0, 3, 4, 59, 60, 61, 1514, 4095, 9000, 65535)
"""The sizes of the packets in sample()."""
START_NS = 1_700_000_000_123_456_789

_SECTION = 0x0A0D0D0A
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_IF_TSRESOL, _IF_TSOFFSET = 9, 14


@dataclass(frozen=True)
class Record:
    """One packet of a capture."""

    data: bytes
    time_ns: int
    wirelen: int
    interface: int = 0


@dataclass
class Capture:
    """What read_capture() found."""

    linktypes: list[int] = field(default_factory=list)
    """The link type of each interface."""
    records: list[Record] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """The names of the interfaces; only pcapng has them."""


class NotStrict(Exception):
    """The file has something that no well-formed capture has."""


# ---- making ---------------------------------------------------------------------------------------------------------


def sample(unit_ns: int = 1, sizes: Sequence[int] = SIZES) -> list[Record]:
    """Packets of these sizes with known bytes; some are longer on the wire, and times are multiples of `unit_ns`."""
    chance = random.Random(20)
    start = START_NS // unit_ns * unit_ns
    return [
        Record(chance.randbytes(size), start + number * 999 * unit_ns, size + (number % 3) * 100)
        for number, size in enumerate(sizes)
    ]


def pcap(
    records: Iterable[Record],
    *,
    order: Order = "<",
    nanoseconds: bool = False,
    linktype: int = ETHERNET,
    snaplen: int = SNAPLEN,
) -> bytes:
    """A classic pcap file."""
    unit = 1 if nanoseconds else 1000
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    parts = [struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)]
    for record in records:
        seconds, rest = divmod(record.time_ns, 1_000_000_000)
        parts.append(struct.pack(f"{order}4I", seconds, rest // unit, len(record.data), record.wirelen))
        parts.append(record.data)
    return b"".join(parts)


def pcapng(
    records: Iterable[Record],
    *,
    order: Order = "<",
    resolutions: Sequence[int] = (6,),
    linktype: int = ETHERNET,
    offset_s: int = 0,
) -> bytes:
    """A pcapng file with an interface for each if_tsresol in `resolutions`; 0x80 | n means 2 to the power of -n."""
    parts = [_block(order, _SECTION, struct.pack(f"{order}IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1))]
    for resolution in resolutions:
        options = struct.pack(f"{order}HHBxxx", _IF_TSRESOL, 1, resolution)
        if offset_s:
            options += struct.pack(f"{order}HHq", _IF_TSOFFSET, 8, offset_s)
        body = struct.pack(f"{order}HHI", linktype, 0, SNAPLEN)
        parts.append(_block(order, _INTERFACE, body + options + bytes(4)))
    for record in records:
        ticks = (record.time_ns - offset_s * 1_000_000_000) * ticks_per_second(resolutions[record.interface])
        ticks //= 1_000_000_000
        head = (record.interface, ticks >> 32, ticks & 0xFFFFFFFF, len(record.data), record.wirelen)
        parts.append(_block(order, _ENHANCED, struct.pack(f"{order}5I", *head) + _padded(record.data)))
    return b"".join(parts)


def ticks_per_second(resolution: int) -> int:
    """The resolution that an if_tsresol byte stands for."""
    return int((2 if resolution & 0x80 else 10) ** (resolution & 0x7F))


def again(records: list[Record], loops: int) -> list[Record]:
    """The packets of a replay in a loop: each pass begins a mean gap after the latest packet of the pass before.

    A packet without a time, which is 0, has none in any pass.
    """
    times = [record.time_ns for record in records if record.time_ns]
    span = max(times, default=0) - min(times, default=0)
    step = span + max(1, span // max(1, len(times) - 1))
    return [
        Record(one.data, one.time_ns and one.time_ns + number * step, one.wirelen, one.interface)
        for number in range(loops)
        for one in records
    ]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(order: Order, kind: int, body: bytes) -> bytes:
    total = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + total + body + total


FORMATS: dict[str, tuple[int, Callable[[list[Record]], bytes]]] = {
    "pcap-le-us": (1000, lambda records: pcap(records)),
    "pcap-be-us": (1000, lambda records: pcap(records, order=">")),
    "pcap-le-ns": (1, lambda records: pcap(records, nanoseconds=True)),
    "pcap-be-ns": (1, lambda records: pcap(records, order=">", nanoseconds=True)),
    "pcapng-le-us": (1000, lambda records: pcapng(records)),
    "pcapng-be-us": (1000, lambda records: pcapng(records, order=">")),
    "pcapng-le-ns": (1, lambda records: pcapng(records, resolutions=[9])),
    "pcapng-be-ns": (1, lambda records: pcapng(records, order=">", resolutions=[9])),
    "pcapng-le-s": (1_000_000_000, lambda records: pcapng(records, resolutions=[0])),
    "pcapng-be-ms": (1_000_000, lambda records: pcapng(records, order=">", resolutions=[3])),
    "pcapng-le-binary": (1_000_000_000 >> 9, lambda records: pcapng(records, resolutions=[0x80 | 9])),
    "pcapng-le-offset": (1, lambda records: pcapng(records, resolutions=[9], offset_s=1_600_000_000)),
    "pcap-le-us-gz": (1000, lambda records: gzip.compress(pcap(records), mtime=0)),
    "pcapng-be-ns-gz": (1, lambda records: gzip.compress(pcapng(records, order=">", resolutions=[9]), mtime=0)),
}
"""Every format that can be read: the unit of its times in nanoseconds, and what makes it."""


def received(reader: Any) -> list[Record]:
    """All packets that a reader's descriptor stores now, assigned or not, each one once."""
    found: list[Record] = []
    while True:
        buffer = reader.next_buffer(timeout=0)
        if buffer is not None:
            found += [Record(bytes(one), one.time_ns, one.wirelen, one.interface) for one in buffer]
        elif not reader.rotate():
            return found


# ---- reading --------------------------------------------------------------------------------------------------------


def read_capture(image: bytes) -> Capture:
    """Everything in a capture file, gzipped or not; raises NotStrict if the file is cut or malformed."""
    if image[:2] == b"\x1f\x8b":
        image = gzip.decompress(image)
    if image[:4] == struct.pack("<I", _SECTION):
        return _read_pcapng(image)
    for order, unit in (("<", 1000), (">", 1000), ("<", 1), (">", 1)):
        if image[:4] == struct.pack(f"{order}I", 0xA1B2C3D4 if unit == 1000 else 0xA1B23C4D):
            return _read_pcap(image, order, unit)
    raise NotStrict(f"magic {image[:4]!r}")


def _read_pcap(image: bytes, order: str, unit: int) -> Capture:
    _, major, minor, _, _, _, linktype = _unpack(f"{order}IHHiIII", image, 0)
    if (major, minor) != (2, 4):
        raise NotStrict(f"version {major}.{minor}")
    found = Capture([linktype & 0xFFFF])  # without the FCS's length, and undefined bits
    offset = 24
    while offset < len(image):
        seconds, rest, caplen, wirelen = _unpack(f"{order}4I", image, offset)
        if caplen > SNAPLEN or caplen > len(image) - offset - 16:
            raise NotStrict(f"packet of {caplen} bytes at {offset}")
        data = image[offset + 16 : offset + 16 + caplen]
        found.records.append(Record(data, seconds * 1_000_000_000 + rest * unit, wirelen))
        offset += 16 + caplen
    return found


def _read_pcapng(image: bytes) -> Capture:
    found = Capture()
    order = "<" if image[8:12] == struct.pack("<I", _BYTE_ORDER_MAGIC) else ">"
    clocks: list[tuple[int, int]] = []
    snaplens: list[int] = []
    offset = 0
    while offset < len(image):
        kind, total = _unpack(f"{order}II", image, offset)
        if total < 12 or total % 4 or total > len(image) - offset:
            raise NotStrict(f"block of {total} bytes at {offset}")
        if _unpack(f"{order}I", image, offset + total - 4) != (total,):
            raise NotStrict(f"the block at {offset} ends with another length")
        body = image[offset + 8 : offset + total - 4]
        if kind == _SECTION and offset:
            raise NotStrict("several sections")
        if kind == _INTERFACE:
            linktype, _, snaplen = _unpack(f"{order}HHI", body, 0)
            options = dict(_options(order, body[8:]))
            found.linktypes.append(linktype)
            found.names.append(options.get(2, b"").decode())
            (seconds,) = struct.unpack(f"{order}q", options.get(_IF_TSOFFSET, bytes(8)))
            clocks.append((ticks_per_second(options.get(_IF_TSRESOL, b"\6")[0]), seconds))
            snaplens.append(snaplen)
        elif kind == _ENHANCED:
            number, high, low, caplen, wirelen = _unpack(f"{order}5I", body, 0)
            found.records.append(_record(body[20:], number, high << 32 | low, caplen, wirelen, clocks))
        elif kind == _OLD_PACKET:
            number, _, high, low, caplen, wirelen = _unpack(f"{order}HHIIII", body, 0)
            found.records.append(_record(body[20:], number, high << 32 | low, caplen, wirelen, clocks))
        elif kind == _SIMPLE:
            (wirelen,) = _unpack(f"{order}I", body, 0)
            caplen = min(wirelen, snaplens[0] or wirelen)
            found.records.append(_record(body[4:], 0, 0, caplen, wirelen, clocks))
        offset += total
    return found


def _record(rest: bytes, number: int, ticks: int, caplen: int, wirelen: int, clocks: list[tuple[int, int]]) -> Record:
    if number >= len(clocks) or caplen > len(rest):
        raise NotStrict(f"packet of {caplen} bytes on interface {number}")
    per_second, offset_s = clocks[number]
    time_ns = offset_s * 1_000_000_000 + ticks * 1_000_000_000 // per_second
    return Record(rest[:caplen], time_ns, wirelen, number)


def _options(order: str, data: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while len(data) - offset >= 4:
        code, length = _unpack(f"{order}HH", data, offset)
        if code == 0:
            break
        found.append((code, data[offset + 4 : offset + 4 + length]))
        offset += 4 + length + -length % 4
    return found


def _unpack(form: str, image: bytes, offset: int) -> tuple[int, ...]:
    if offset + struct.calcsize(form) > len(image):
        raise NotStrict(f"cut short at byte {offset}")
    return struct.unpack_from(form, image, offset)
