"""What packets can be read from: capture files by libpcap, and whatever scapy can read.

A FileSource is pumped natively. Every other source is an iterator of RawPacket: bytes and their metadata, not
dissected. scapy is imported only where it is needed.
"""

import contextlib
import gzip
import itertools
import logging
import os
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from zbuf.producer.libpcap import CaptureFile, PacketStore
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.pcapng import Interface

log = logging.getLogger("zbuf")

DEFAULT_PRELOAD_LIMIT_BYTES = 1 << 30
LINKTYPE_ETHERNET = 1

_LOAD_PACKETS = 50_000
_GUNZIP_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"
_SCAPY_SNAPLEN = 262_140
_POLL_S = 0.1


class RawPacket(NamedTuple):
    """One packet as a source gives it."""

    data: Any
    """Its captured bytes, a bytes-like object."""
    time_ns: int
    wirelen: int | None = None
    interface: int = 0


class FileSource:
    """Capture files, one after the other, each an interface of its own: pcap and pcapng, gzipped or not.

    They are read into memory where they fit, to be pumped from there; else they are read anew on each pass.

    Args:
        paths: the files; "-" is standard input.
        preload_limit_bytes: how much captured data is kept in memory.
        progress: called with the packets and bytes loaded so far, now and then.

    Raises:
        CaptureFileError: a file is missing, empty or not a capture, or the files' link types differ.
    """

    def __init__(
        self,
        paths: Iterable[str],
        preload_limit_bytes: int = DEFAULT_PRELOAD_LIMIT_BYTES,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.paths = list(paths)
        self.warnings: list[str] = []
        """Damage found in the files, once each."""
        self._store: PacketStore | None = None
        self._opened: list[_OpenFile] = []
        self._standard_input_used = False
        files = [self._open(number) for number in range(len(self.paths))]
        self.linktype = _common_linktype(files)
        self.interfaces = [Interface(os.path.basename(path) or path, self.linktype) for path in self.paths]
        self._load(files, preload_limit_bytes, progress)

    def passes(self, count: int) -> Iterator[CaptureFile | PacketStore]:
        """The native sources that give everything `count` times, each to be pumped to its end; 0 is for ever."""
        if self._store is not None:
            self._store.rewind(count or 2**63)
            yield self._store
            return
        while True:
            for number in range(len(self.paths)):
                file = self._open(number)
                yield file.capture
                self._close(file)
            count -= 1
            if count == 0:
                return

    def _open(self, number: int) -> "_OpenFile":
        path = self.paths[number]
        if path == "-":
            if self._standard_input_used:
                raise CaptureFileError("standard input can be read once: save it to a file to stream or loop it")
            self._standard_input_used = True
        return _OpenFile(path, number)

    def _close(self, file: "_OpenFile") -> None:
        damage = file.close()
        if damage is not None and damage not in self.warnings:
            self.warnings.append(damage)

    def _load(self, files: list["_OpenFile"], limit: int, progress: Callable[[int, int], None] | None) -> None:
        """Read everything into memory, or give that up as soon as it is more than the limit."""
        store = PacketStore()
        for file in files:
            while store.load(file.capture, _LOAD_PACKETS) == _LOAD_PACKETS and store.captured_bytes <= limit:
                if progress is not None:
                    progress(len(store), store.captured_bytes)
        if store.captured_bytes > limit:
            if "-" in self.paths:
                raise CaptureFileError(f"standard input has more than {limit} bytes: raise --preload-limit")
            for file in files:
                file.close()
            return
        for file in files:
            self._close(file)
        self._store = store


class _OpenFile:
    """A capture file being read, with the thread that decompresses it, if it is gzipped."""

    def __init__(self, path: str, interface: int) -> None:
        self._path = path
        self._pipe_error: str | None = None
        self._thread: threading.Thread | None = None
        fd = _open_path(path)
        try:
            if _is_gzip(fd):
                fd = self._decompress(fd)
        except BaseException:
            os.close(fd)
            raise
        self.capture = CaptureFile(fd, path, interface)

    def _decompress(self, fd: int) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._copy, args=(fd, writing), name="zbuf-gunzip", daemon=True)
        self._thread.start()
        return reading

    def _copy(self, fd: int, writing: int) -> None:
        with os.fdopen(fd, "rb") as packed, os.fdopen(writing, "wb") as pipe, contextlib.suppress(BrokenPipeError):
            try:
                with gzip.GzipFile(fileobj=packed) as plain:
                    while some := plain.read1(_GUNZIP_BYTES):  # what is whole comes before what is damaged
                        pipe.write(some)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self._pipe_error = f"{self._path}: damaged gzip file: {error}"

    def close(self) -> str | None:
        """Close the file; returns what damage was found in it, or None."""
        self.capture.close()
        if self._thread is not None:
            self._thread.join()
        if self._pipe_error and self.capture.damage:
            return f"{self._pipe_error} ({self.capture.packets} whole packets before)"
        return self._pipe_error or self.capture.damage


def _open_path(path: str) -> int:
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CaptureFileError(f"{path}: {error.strerror}") from None
    mode = os.fstat(fd)
    if stat.S_ISDIR(mode.st_mode) or (stat.S_ISREG(mode.st_mode) and mode.st_size == 0):
        os.close(fd)
        what = "a directory, not a capture file" if stat.S_ISDIR(mode.st_mode) else "the file is empty"
        raise CaptureFileError(f"{path}: {what}")
    return fd


def _is_gzip(fd: int) -> bool:
    try:
        return os.pread(fd, 2, 0) == _GZIP_MAGIC
    except OSError:
        return False  # a pipe: it can't be looked into


def _common_linktype(files: list[_OpenFile]) -> int:
    for path, linktype in ((file._path, file.capture.linktype) for file in files):
        if linktype != files[0].capture.linktype:
            first = f"{files[0]._path} has {files[0].capture.linktype}"
            raise CaptureFileError(f"{path}: link type {linktype}, where {first}: replay them separately")
    return files[0].capture.linktype


# ---- scapy and other Python sources -------------------------------------------------------------------------------


class ScapySource:
    """A capture file read by scapy, packet by packet, not dissected.

    Args:
        paths: the files, read one after the other.

    Raises:
        CaptureFileError: a file is missing, or scapy can't read it, or the link types differ.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = list(paths)
        self.warnings: list[str] = []
        linktypes = [_scapy_linktype(path) for path in self.paths]
        if len(set(linktypes)) > 1:
            raise CaptureFileError(
                f"{self.paths[1]}: the files' link types differ: {linktypes}: replay them separately"
            )
        self.linktype = linktypes[0]
        self.interfaces = [Interface(os.path.basename(path) or path, self.linktype) for path in self.paths]

    def packets(self, count: int) -> Iterator[RawPacket]:
        """All packets, `count` times; 0 is for ever."""
        while True:
            for number, path in enumerate(self.paths):
                with contextlib.closing(_scapy_reader(path)) as reader:
                    for packet in _from_reader(reader, self._note_damage):
                        yield packet._replace(interface=number)
            count -= 1
            if count == 0:
                return

    def _note_damage(self, damage: str) -> None:
        if damage not in self.warnings:
            self.warnings.append(damage)


def _scapy_reader(path: str) -> Any:
    from scapy.error import Scapy_Exception
    from scapy.utils import RawPcapReader

    try:
        return RawPcapReader(path)
    except (OSError, EOFError, Scapy_Exception, zlib.error) as error:
        raise CaptureFileError(f"{path}: {getattr(error, 'strerror', None) or error}: scapy can't read it") from None


def _scapy_linktype(path: str) -> int:
    with contextlib.closing(_scapy_reader(path)) as reader:
        if hasattr(reader, "linktype"):
            return int(reader.linktype)
        first = next(iter(reader), None)  # of pcapng the packets tell, each by its interface
        return int(first[1].linktype) if first is not None else LINKTYPE_ETHERNET


def _from_reader(reader: Any, note_damage: Callable[[str], None] = log.warning) -> Iterator[RawPacket]:
    """The packets of a scapy reader of pcap or pcapng, dissecting or raw."""
    nanoseconds = 1 if getattr(reader, "nano", False) else 1000
    for whole in itertools.count():
        try:
            data, meta = reader._read_packet(size=_SCAPY_SNAPLEN)
        except EOFError:
            return
        if len(data) < min(getattr(meta, "caplen", 0), _SCAPY_SNAPLEN):
            note_damage(f"{reader.filename}: cut short after {whole} whole packets, in one of {meta.caplen} bytes")
            return
        if hasattr(meta, "sec"):
            time_ns = meta.sec * 1_000_000_000 + meta.usec * nanoseconds
        else:
            time_ns = ((meta.tshigh or 0) << 32 | (meta.tslow or 0)) * 1_000_000_000 // (meta.tsresol or 1_000_000)
        yield RawPacket(data, time_ns & 0xFFFFFFFFFFFFFFFF, meta.wirelen)


def _from_socket(socket: Any) -> Iterator[RawPacket | None]:
    """The packets of a scapy socket, raw; None now and then while there is none."""
    while not getattr(socket, "closed", False):
        if not socket.select([socket], _POLL_S):
            yield None
            continue
        try:
            _, data, seconds = socket.recv_raw()
        except EOFError:
            return
        if data:
            yield RawPacket(data, time.time_ns() if seconds is None else _nanoseconds(seconds))


def _nanoseconds(seconds: Any) -> int:
    """Scapy's packet times are floats, or exact decimals of a class of its own."""
    return int(seconds * 1_000_000_000 + 0.5)


def _from_items(items: Iterable[Any]) -> Iterator[RawPacket]:
    for item in items:
        if isinstance(item, RawPacket):
            yield item
        elif isinstance(item, (bytes, bytearray, memoryview)):
            yield RawPacket(item, time.time_ns())
        elif isinstance(item, tuple) and len(item) == 2:
            yield RawPacket(item[0], item[1])
        elif hasattr(item, "time") and hasattr(item, "wirelen"):
            yield RawPacket(bytes(item), _nanoseconds(item.time), item.wirelen)
        else:
            raise ValueRefused(f"{item!r:.80} is no packet: give bytes, (bytes, time_ns) or scapy packets")


def packets_of(source: Any) -> Iterator[RawPacket | None]:
    """The packets of anything that can be published: see Producer.publish(). None stands for "none at the moment"."""
    if hasattr(source, "_read_packet"):
        return _from_reader(source)
    if hasattr(source, "recv_raw"):
        return _from_socket(source)
    return _from_items(source)


def linktype_of(source: Any) -> int | None:
    """The LINKTYPE_ that a source says it has; None where it does not."""
    if isinstance(getattr(source, "linktype", None), int):
        return int(source.linktype)
    layer = getattr(source, "LL", None)
    if layer is None:
        return None
    from scapy.config import conf

    return int(conf.l2types.layer2num[layer]) if layer in conf.l2types.layer2num else None
