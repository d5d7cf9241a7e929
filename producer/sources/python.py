"""Sources whose packets are Python objects: capture files that scapy reads, scapy's sockets, any iterable.

Each gives RawPackets: bytes and their metadata, not dissected. scapy is imported only when it is needed.
"""

import contextlib
import gzip
import itertools
import os
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

from zbuf.shared.arguments import accepted
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.memory.pcapng import Interface

LINKTYPE_ETHERNET = 1

File = str | os.PathLike[str]

_SCAPY_SNAPLEN = 262_140  # what scapy reads of a packet at most
_LONGEST_HEADER = 16
_POLL_S = 0.1
_LAST_NS = 2**64 - 1
_YEAR_S = 365 * 24 * 3600
_INTERFACE_DESCRIPTION, _IF_TSOFFSET = 1, 14  # of pcapng


class RawPacket(NamedTuple):
    """One packet of a source."""

    data: Any
    """Its captured bytes, a bytes-like object."""
    time_ns: int
    """When it was captured, in nanoseconds since 1970; 0 where that is not known."""
    wirelen: int | None = None
    """Its length on the wire in bytes; None for the length of `data`."""
    interface: int = 0
    """The number of its interface."""

    def __repr__(self) -> str:
        return f"<zbuf raw packet: {len(self.data)} of {self.wirelen or len(self.data)} bytes at {self.time_ns} ns>"


def check_data(data: Any) -> None:
    """Raise TypeError where a packet's bytes are no bytes-like object."""
    try:
        if type(data) is not bytes:
            memoryview(data).release()
    except TypeError:
        raise TypeError(f"data must be bytes-like, not {type(data).__name__}: {data!r:.60}") from None


def check_time(time_ns: Any) -> int:
    """The time of a packet that a program hands in.

    Raises:
        TypeError: it is no int. A float can't hold nanoseconds since 1970.
        ValueRefused: it does not fit, or it is the present time, give or take a year, in seconds.
    """
    if isinstance(time_ns, float):
        raise TypeError(f"time_ns={time_ns!r}: it must be an int of nanoseconds: time.time_ns(), or int(seconds * 1e9)")
    moment: int = time_ns if type(time_ns) is int else accepted("time_ns", time_ns, int)
    if not 0 <= moment <= _LAST_NS:
        raise ValueRefused(f"time_ns={moment}: it must be from 0 to {_LAST_NS}")
    if 1_000_000_000 < moment < 5_000_000_000 and abs(moment - time.time()) < _YEAR_S:
        raise ValueRefused(f"time_ns={moment}: these are seconds: give nanoseconds, such as time.time_ns()")
    return moment


def check_wirelen(wirelen: Any, data: Any) -> int:
    """The length on the wire of a packet that a program hands in; it is at least that of the data."""
    length: int = wirelen if type(wirelen) is int else accepted("wirelen", wirelen, int)
    check_data(data)
    captured = len(data) if type(data) is bytes else memoryview(data).nbytes
    if length < captured:
        raise ValueRefused(f"wirelen={length}: the packet has {captured} captured bytes: give no less, or None")
    return length


def paths_of(paths: "File | Iterable[File]") -> list[str]:
    """The files of a source, which are one at least; one path is one file."""
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(accepted("paths", paths, Iterable))
    found = [os.fspath(accepted("paths", path, File)) for path in given]
    if not found:
        raise ValueRefused("no capture files: name one at least")
    return found


class ScapySource:
    """Capture files that scapy reads, packet by packet, not dissected.

    Args:
        paths: the files, read one after the other; or one file.

    Raises:
        ValueRefused: there are no files.
        CaptureFileError: a file is missing, or scapy can't read it.
    """

    def __init__(self, paths: File | Iterable[File]) -> None:
        self.paths = paths_of(paths)
        self.damage: list[str] = []
        self.warnings = self.damage
        self.interfaces: list[Interface] = []
        """Those that packets have come from so far: the first of each file, and more as they appear."""
        self.recordings: list[int] = []
        """Which file each interface is of: each file is a recording of its own."""
        self._numbers: dict[tuple[int, int, bytes | None], int] = {}
        for number, path in enumerate(self.paths):
            self._number(number, *_first_interface(path))

    def __repr__(self) -> str:
        return f"<zbuf scapy source of {', '.join(self.paths)}>"

    @property
    def linktype(self) -> int:
        """LINKTYPE_ value of the first interface."""
        return self.interfaces[0].linktype

    def _number(self, file: int, linktype: int, name: bytes | None) -> int:
        """The number of an interface; scapy tells interfaces of a file apart by their link types and names."""
        number = self._numbers.setdefault((file, linktype, name), len(self.interfaces))
        if number == len(self.interfaces):
            path = self.paths[file]
            called = (name or b"").rstrip(b"\0").decode("utf-8", "replace") or os.path.basename(path) or path
            self.interfaces.append(Interface(called, linktype))
            self.recordings.append(file)
        return number

    def passes(self, count: int) -> Iterator[Iterator[RawPacket]]:
        """One pass, which has all packets `count` times: see zbuf.producer.sources.source.Source."""
        yield self.packets(count)

    def packets(self, count: int) -> Iterator[RawPacket]:
        """All packets, `count` times; 0 is for ever. On each pass their times go on, as those of a FileSource do."""
        shift, earliest, latest, packets, timed = 0, _LAST_NS, 0, 0, 0
        for number in range(count) if count else itertools.count():
            for packet in self._one_pass():
                packets += 1
                if packet.time_ns == 0:  # it has none
                    yield packet
                    continue
                if number == 0:
                    earliest, latest, timed = min(earliest, packet.time_ns), max(latest, packet.time_ns), timed + 1
                yield packet._replace(time_ns=packet.time_ns + shift)
            if not packets:
                return
            step = latest - earliest + max(1, (latest - earliest) // max(1, timed - 1))
            if timed and latest + shift + step <= _LAST_NS:
                shift += step

    def _one_pass(self) -> Iterator[RawPacket]:
        for number, path in enumerate(self.paths):
            yield from self._packets_of_file(number, path)

    def _packets_of_file(self, number: int, path: str) -> Iterator[RawPacket]:
        whole = 0
        with _WatchedFile(path) as file:
            reader = _scapy_reader(file)
            for data, meta in _read_all(reader):
                if file.damage is not None:
                    break
                yield _raw_packet(reader, data, meta, self._number(number, *_interface_of(reader, meta)))
                whole += 1
        if file.damage is not None:
            self._note_damage(f"{path}: damaged after {whole} whole packets, before byte {file.offset}: {file.damage}")

    def _note_damage(self, damage: str) -> None:
        if damage not in self.warnings:
            self.warnings.append(damage)


class _WatchedFile:
    """A capture file, gzipped or not, that tells when it ends in the middle of a packet; scapy does not tell."""

    def __init__(self, path: str) -> None:
        self.name = path
        self.damage: str | None = None
        self.offset = 0
        """Bytes read, of the unpacked file."""
        try:
            self._raw = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        except OSError as error:
            raise CaptureFileError(f"{path}: {error.strerror}") from None
        packed = self._raw.peek(2)[:2] == b"\x1f\x8b"
        self._file = gzip.GzipFile(fileobj=self._raw) if packed else self._raw

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._raw.close()

    def seek(self, _offset: int, _whence: int = 0) -> None:
        """What scapy does before it unpacks a file, which has been done here."""
        raise CaptureFileError(f"{self.name}: not a capture file: it is compressed twice")

    def read(self, size: int) -> bytes:
        """Read as from any file: everything up to where the file is damaged."""
        data = b""
        try:
            while len(data) < size and (some := self._file.read1(size - len(data))):
                data += some
        except (EOFError, zlib.error, OSError) as error:
            self.damage = f"damaged gzip file: {error}"
        self.offset += len(data)
        # A file may end before the next packet's header, and nowhere else.
        if len(data) < size and (data or size > _LONGEST_HEADER) and self.damage is None:
            self.damage = f"cut short: {len(data)} bytes of {size} are there"
        return data


def _scapy_reader(file: Any) -> Any:
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapReader

    try:
        reader = RawPcapReader(file)
    except (EOFError, Scapy_Exception) as error:
        raise CaptureFileError(f"{file.name}: not a capture file, says scapy: {error}") from None
    if hasattr(reader, "blocktypes"):
        _refuse_offsets(reader, file.name)
        _refuse_sections(reader, file.name)
    return reader


def _refuse_sections(reader: Any, name: str) -> None:
    """Have a pcapng reader refuse a second section: scapy would take its interfaces for those of the first."""

    def refuse() -> None:
        raise CaptureFileError(f"{name}: it has several sections, which scapy mixes up: leave --engine scapy out")

    reader._read_block_shb = refuse


def _refuse_offsets(reader: Any, name: str) -> None:
    """Have a pcapng reader refuse an interface whose times have an offset: scapy would tell other times."""
    read_interface = reader.blocktypes[_INTERFACE_DESCRIPTION]

    def read_checked(block: bytes, size: int) -> None:
        if _has_option(block[8:], _IF_TSOFFSET, reader.endian):
            raise CaptureFileError(
                f"{name}: an interface's times have an offset, which scapy does not know: leave --engine scapy out"
            )
        read_interface(block, size)

    reader.blocktypes[_INTERFACE_DESCRIPTION] = read_checked


def _has_option(options: bytes, wanted: int, order: str) -> bool:
    while len(options) >= 4:
        code, length = struct.unpack_from(f"{order}HH", options)
        if code == wanted:
            return True
        options = options[4 + length + -length % 4 :] if code else b""
    return False


def _first_interface(path: str) -> tuple[int, bytes | None]:
    """The link type, and the name if there is one, of the interface of a file's first packet."""
    with _WatchedFile(path) as file:
        reader = _scapy_reader(file)
        if hasattr(reader, "linktype"):
            return _interface_of(reader, None)
        first = next(_read_all(reader), None)
        return _interface_of(reader, first[1]) if first is not None else (LINKTYPE_ETHERNET, None)


def _interface_of(reader: Any, meta: Any) -> tuple[int, bytes | None]:
    """The link type and the name of a packet's interface: a pcap file has one, and pcapng tells with each packet."""
    if hasattr(reader, "linktype"):
        return int(reader.linktype) & 0xFFFF, None  # the rest tells the length of the FCS
    return int(meta.linktype), getattr(meta, "ifname", None)


def _read_all(reader: Any) -> Iterator[tuple[bytes, Any]]:
    """What one of scapy's readers gives, not dissected: bytes, and what is known of them."""
    with contextlib.suppress(EOFError):
        while True:
            yield reader._read_packet(size=_SCAPY_SNAPLEN)


def _raw_packet(reader: Any, data: bytes, meta: Any, interface: int = 0) -> RawPacket:
    if hasattr(meta, "sec"):
        time_ns = meta.sec * 1_000_000_000 + meta.usec * (1 if getattr(reader, "nano", False) else 1000)
    else:
        time_ns = ((meta.tshigh or 0) << 32 | (meta.tslow or 0)) * 1_000_000_000 // (meta.tsresol or 1_000_000)
    return RawPacket(data, min(time_ns, _LAST_NS), meta.wirelen, interface)


def _from_reader(reader: Any) -> Iterator[RawPacket]:
    """The packets of one of scapy's readers of pcap or pcapng, whether it dissects or not."""
    first = None
    for number, (data, meta) in enumerate(_read_all(reader), 1):
        linktype, _ = _interface_of(reader, meta)
        first = linktype if first is None else first
        if linktype != first:
            raise CaptureFileError(
                f"{getattr(reader, 'filename', 'the capture')}: packet {number} has link type {linktype}, "
                f"where packets before it have {first}: give the file to ScapySource, which keeps them apart"
            )
        yield _raw_packet(reader, data, meta)


def _from_socket(socket: Any) -> Iterator[RawPacket | None]:
    """The packets of a scapy socket, not dissected; None now and then while no packet comes."""
    while not getattr(socket, "closed", False):
        if not socket.select([socket], _POLL_S):
            yield None
            continue
        try:
            _, data, seconds = socket.recv_raw()
        except EOFError:
            return
        if data == b"":
            return  # the other end has closed it
        if data is not None:
            yield RawPacket(data, time.time_ns() if seconds is None else nanoseconds(seconds))


def nanoseconds(seconds: Any) -> int:
    """A time in nanoseconds, from scapy's seconds: a float, or an exact decimal of scapy's own class."""
    return int(seconds * 1_000_000_000 + 0.5)


def _from_items(items: Iterable[Any]) -> Iterator[RawPacket]:
    for item in items:
        if isinstance(item, RawPacket):
            yield _checked(item)
        elif isinstance(item, (bytes, bytearray, memoryview)):
            yield RawPacket(item, time.time_ns())
        elif isinstance(item, tuple) and len(item) == 2:
            yield _checked(RawPacket(item[0], item[1]))
        elif hasattr(item, "time") and hasattr(item, "wirelen"):
            yield RawPacket(bytes(item), nanoseconds(item.time), item.wirelen)
        else:
            raise ValueRefused(f"{item!r:.80} is no packet: give bytes, (bytes, time_ns) or scapy packets")


def _checked(packet: RawPacket) -> RawPacket:
    if packet.wirelen is not None:
        check_wirelen(packet.wirelen, packet.data)
    return packet._replace(time_ns=check_time(packet.time_ns))


def packets_of(source: Any) -> Iterator[RawPacket | None]:
    """The packets of anything that can be published, see Producer.publish(); None while there is none at the moment."""
    if hasattr(source, "_read_packet"):
        return _from_reader(source)
    if hasattr(source, "recv_raw"):
        return _from_socket(source)
    return _from_items(accepted("source", source, Iterable))


def linktype_of(source: Any) -> int | None:
    """The LINKTYPE_ that a source says its packets have; None where it does not say."""
    if isinstance(getattr(source, "linktype", None), int):
        return int(source.linktype)
    layer = getattr(source, "LL", None)
    if layer is None:
        return None
    from scapy.config import conf

    return int(conf.l2types.layer2num[layer]) if layer in conf.l2types.layer2num else None
