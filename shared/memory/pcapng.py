"""pcapng blocks around the packets: the prologue before them, the statistics after them.

Source: draft-ietf-opsawg-pcapng, sections 4.1 (Section Header), 4.2 (Interface Description), 4.6 (Interface
Statistics). The packets themselves are written by zbuf.h.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from zbuf.shared.arguments import check_fields
from zbuf.shared.errors import SegmentError

_SECTION_HEADER = 0x0A0D0D0A
_INTERFACE_DESCRIPTION = 1
_INTERFACE_STATISTICS = 5
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_SECTION_LENGTH_UNKNOWN = -1

_IF_NAME, _IF_DESCRIPTION, _IF_SPEED, _IF_TSRESOL, _IF_FILTER, _IF_TSOFFSET = 2, 3, 8, 9, 11, 14
_FILTER_TEXT = b"\0"  # what a filter begins with that is an expression, not a program
_SHB_USERAPPL = 4
_ISB_STARTTIME, _ISB_ENDTIME, _ISB_IFRECV, _ISB_FILTERACCEPT, _ISB_OSDROP, _ISB_USRDELIV = 2, 3, 4, 6, 7, 8
_NANOSECONDS = bytes([9])  # if_tsresol: 10 to the power of minus 9


@dataclass(frozen=True)
class Interface:
    """What an Interface Description Block says about one interface."""

    name: str
    linktype: int
    """A LINKTYPE_ value, https://www.tcpdump.org/linktypes.html."""
    description: str = ""
    snaplen: int = field(default=0, compare=False)
    """Bytes that were kept of a packet at most; 0 where that was not limited."""
    speed: int | None = None
    """Bits per second; None where that is not known."""
    filter: str = ""
    """The expression that its packets passed."""
    options: tuple[tuple[int, bytes], ...] = ()
    """Everything else that is known of it: pcapng's options, code and little-endian value."""

    def __post_init__(self) -> None:
        check_fields(self)


def interface_description(interface: Interface, snaplen: int) -> bytes:
    """The Interface Description Block of one interface.

    Args:
        interface: what it says.
        snaplen: bytes that are kept of a packet; the smaller one counts where the interface has a snaplen of its own.
    """
    kept = min(snaplen, interface.snaplen or snaplen)
    body = struct.pack("<HHI", interface.linktype, 0, kept)
    return _block(_INTERFACE_DESCRIPTION, body, _interface_options(interface))


def prologue(interfaces: Sequence[Interface], snaplen: int, application: str) -> bytes:
    """The blocks before the first packet: a Section Header, then one Interface Description per interface.

    Args:
        interfaces: in the order of the packets' interface numbers.
        snaplen: bytes kept of a packet.
        application: what shb_userappl says wrote the file.
    """
    header = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, _SECTION_LENGTH_UNKNOWN)
    blocks = [_block(_SECTION_HEADER, header, [(_SHB_USERAPPL, application.encode())])]
    blocks += [interface_description(interface, snaplen) for interface in interfaces]
    return b"".join(blocks)


def _interface_options(interface: Interface) -> list[tuple[int, bytes]]:
    options = [(_IF_NAME, interface.name.encode("utf-8", "replace"))]
    if interface.description:
        options.append((_IF_DESCRIPTION, interface.description.encode("utf-8", "replace")))
    if interface.speed is not None:
        options.append((_IF_SPEED, struct.pack("<Q", interface.speed)))
    options.append((_IF_TSRESOL, _NANOSECONDS))
    if interface.filter:
        options.append((_IF_FILTER, _FILTER_TEXT + interface.filter.encode("utf-8", "replace")))
    return [*options, *interface.options]


def statistics(interface: int, start_ns: int, end_ns: int, ledger: Mapping[str, int]) -> bytes:
    """An Interface Statistics Block for the end of a file.

    Args:
        interface: the number of the interface in the prologue.
        start_ns: when the capture began, nanoseconds since 1970.
        end_ns: when it ended, nanoseconds since 1970.
        ledger: received, accepted, dropped and delivered packets of the descriptor that the packets came from.
    """
    options = [
        (_ISB_STARTTIME, _timestamp(start_ns)),
        (_ISB_ENDTIME, _timestamp(end_ns)),
        (_ISB_IFRECV, struct.pack("<Q", ledger["received"])),
        (_ISB_FILTERACCEPT, struct.pack("<Q", ledger["accepted"])),
        (_ISB_OSDROP, struct.pack("<Q", ledger["dropped"])),
        (_ISB_USRDELIV, struct.pack("<Q", ledger["delivered"])),
    ]
    return _block(_INTERFACE_STATISTICS, struct.pack("<I", interface) + _timestamp(end_ns), options)


def interfaces(blocks: bytes) -> list[Interface]:
    """The interfaces that a prologue describes.

    Raises:
        SegmentError: these bytes are not a Section Header and whole Interface Descriptions.
    """
    (first, section), *others = _blocks(blocks) or [(0, b"")]
    if first != _SECTION_HEADER or len(section) < 16 or section[:4] != struct.pack("<I", _BYTE_ORDER_MAGIC):
        raise SegmentError("corrupt segment: no pcapng Section Header at the start of the prologue")
    return [_described(kind, body) for kind, body in others]


def described(blocks: bytes) -> list[Interface]:
    """The interfaces of Interface Description Blocks alone, as they stand at the head of a buffer.

    Raises:
        SegmentError: these bytes are anything else.
    """
    return [_described(kind, body) for kind, body in _blocks(blocks)]


def _described(kind: int, body: bytes) -> Interface:
    if kind != _INTERFACE_DESCRIPTION or len(body) < 8:
        raise SegmentError(f"corrupt segment: a pcapng block of type {kind:#x} in the prologue")
    return _interface(body)


def first_interfaces(blocks: bytes, count: int) -> bytes:
    """The part of a prologue that describes its first `count` interfaces.

    Raises:
        SegmentError: it is damaged before that, or describes fewer.
    """
    offset = found = 0
    for kind, body in _blocks(blocks):
        if kind == _INTERFACE_DESCRIPTION:
            if found == count:
                return blocks[:offset]
            found += 1
        offset += len(body) + 12
    if found != count:
        raise SegmentError(f"corrupt segment: {found} interfaces in a prologue that should have {count}")
    return blocks


def interface_of(block: bytes, default_name: str = "") -> Interface:
    """What a little-endian Interface Description Block says, of 20 bytes or more.

    The resolution and the offset of its times are not told: zbuf has all times in nanoseconds since 1970.

    Args:
        block: the whole block.
        default_name: what an interface without a name is called.
    """
    interface = _interface(block[8:-4])
    name, description = interface.name.rstrip("\0"), interface.description.rstrip("\0")  # as some writers end strings
    return replace(interface, name=name or default_name, description=description)


def _interface(body: bytes) -> Interface:
    linktype, _, snaplen = struct.unpack_from("<HHI", body)
    options = options_in(body[8:])
    known = dict(reversed(options))  # the first of each
    speed, expression = known.get(_IF_SPEED, b""), known.get(_IF_FILTER, b"")
    is_text = expression[:1] == _FILTER_TEXT
    told = {_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_TSOFFSET}
    told |= ({_IF_SPEED} if len(speed) == 8 else set()) | ({_IF_FILTER} if is_text else set())
    return Interface(
        _text(known.get(_IF_NAME, b"")),
        linktype,
        _text(known.get(_IF_DESCRIPTION, b"")),
        snaplen,
        int.from_bytes(speed, "little") if len(speed) == 8 else None,
        _text(expression[1:]) if is_text else "",
        tuple(option for option in options if option[0] not in told),
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _timestamp(time_ns: int) -> bytes:
    return struct.pack("<II", time_ns >> 32 & 0xFFFFFFFF, time_ns & 0xFFFFFFFF)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes, options: list[tuple[int, bytes]]) -> bytes:
    for code, value in options:
        body += struct.pack("<HH", code, len(value)) + _padded(value)
    body += bytes(4)  # opt_endofopt
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total


def _blocks(data: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    while offset < len(data):
        kind, total = struct.unpack_from("<II", data, offset) if len(data) - offset >= 12 else (0, 0)
        if total < 12 or total % 4 or data[offset + total - 4 : offset + total] != struct.pack("<I", total):
            raise SegmentError(f"corrupt segment: a pcapng block of {total} bytes at {offset} of the prologue")
        found.append((kind, data[offset + 8 : offset + total - 4]))
        offset += total
    return found


def options_in(data: bytes) -> list[tuple[int, bytes]]:
    """The options in these bytes, each with its code, up to the end that they name, or the first one that is cut."""
    found, offset = [], 0
    while len(data) - offset >= 4:
        code, length = struct.unpack_from("<HH", data, offset)
        if code == 0 or length > len(data) - offset - 4:
            break
        found.append((code, data[offset + 4 : offset + 4 + length]))
        offset += 4 + length + -length % 4
    return found
