"""Capture files read by libpcap, and pumped without the GIL; see packet_sources for everything else."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zbuf.producer.sources.files.merge import Merge
from zbuf.producer.sources.files.open_file import OpenFile
from zbuf.producer.sources.files.readahead import ReadAhead
from zbuf.producer.sources.files.stopping import Stop, interruptibly, start_deaf
from zbuf.producer.sources.files.store import PacketStore
from zbuf.producer.sources.files.unique import UniqueAddresses
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.memory.pcapng import Interface

if TYPE_CHECKING:
    from zbuf.producer.ring.contract import NativeSource

DEFAULT_PRELOAD_LIMIT_BYTES = 1 << 30

_LOAD_PACKETS = 50_000
_FOR_EVER = 2**63


@dataclass(frozen=True)
class Sizes:
    """How large packets are on the wire, in the classes of RMON's etherStats (RFC 2819), and beyond them."""

    LIMITS: ClassVar = (64, 127, 255, 511, 1023, 1518, None)
    """The largest size of each class, in bytes."""

    counts: list[int]
    """Packets of each class."""
    wire_bytes: int
    """Of all of them."""

    @property
    def packets(self) -> int:
        """All of them."""
        return sum(self.counts)

    def named(self) -> dict[str, int]:
        """The counts, by names like "65-127"."""
        least = [0, *(limit + 1 for limit in self.LIMITS if limit is not None)]
        names = [f"{low}+" if high is None else f"{low}-{high}" for low, high in zip(least, self.LIMITS, strict=True)]
        return dict(zip(names, self.counts, strict=True))


class FileSource:
    """Capture files, each an interface of its own: pcap and pcapng, gzipped or not.

    They are read into memory where they fit, to be pumped from there; else they are read anew on each pass, by a thread
    that is some megabytes ahead. On each pass the times go on: it begins a mean gap after the latest packet before.

    Args:
        paths: the files; "-" is standard input.
        preload_limit_bytes: how much captured data is kept in memory.
        progress: called with the packets and bytes loaded so far, now and then, from another thread.
        merge: give the packets of all files in the order of their times, in place of one file after the other. Each
            file's own order stays; of packets with the same time, that of the file named first comes first.
        unique_ip: on each pass but the first, give the packets IP addresses of its own; see UniqueAddresses.

    Raises:
        CaptureFileError: a file is missing, empty or not a capture, or the files' link types differ.
        ValueRefused: there are no files, or `unique_ip` does not know their link type.
    """

    def __init__(
        self,
        paths: Iterable[str],
        preload_limit_bytes: int = DEFAULT_PRELOAD_LIMIT_BYTES,
        progress: Callable[[int, int], None] | None = None,
        *,
        merge: bool = False,
        unique_ip: bool = False,
    ) -> None:
        self.paths = list(paths)
        if not self.paths:
            raise ValueRefused("no capture files: name one at least")
        self.warnings: list[str] = []
        """Damage found in the files, once each."""
        self.sizes = Sizes([0] * len(Sizes.LIMITS), 0)
        """How large the packets are; of files that are not in memory, as far as the last passes() read them."""
        numbers = list(range(len(self.paths)))
        self._groups = [numbers] if merge else [[number] for number in numbers]
        self._store: PacketStore | None = None
        self._standard_input_used = False
        linktypes = interruptibly(lambda stop: self._begin(stop, preload_limit_bytes, progress))
        self.interfaces = [
            Interface(os.path.basename(path) or path, linktype)
            for path, linktype in zip(self.paths, linktypes, strict=True)
        ]
        self.linktype = self.interfaces[0].linktype
        """LINKTYPE_ value of the first file."""
        self._rewriter = UniqueAddresses(_common_linktype(self.interfaces)) if unique_ip else None

    def passes(self, count: int) -> Iterator["NativeSource"]:
        """The native sources that give everything `count` times, each to be pumped to its end; 0 is for ever."""
        if self._store is not None:
            self._store.rewind(min(count or _FOR_EVER, _FOR_EVER), self._rewriter)
            yield self._store
        else:
            yield from self._stream(count)

    # ---- from memory --------------------------------------------------------------------------------------------

    def _begin(self, stop: Stop, limit: int, progress: Callable[[int, int], None] | None) -> list[int]:
        """Open the files, and load them if that can be; returns the link type of each."""
        with contextlib.ExitStack() as closing:
            files = [[self._open(number, stop, closing) for number in group] for group in self._groups]
            every = [file for group in files for file in group]
            linktypes = [file.capture.linktype for file in every]
            store = PacketStore()
            for group in files:
                _load(store, _together(group), limit, progress)
            if store.captured_bytes <= limit:
                self._store = store
                self.sizes = Sizes(*store.sizes)
            elif pipe := next((file for file in every if file.is_pipe or file.path == "-"), None):
                name = "standard input" if pipe.path == "-" else f"{pipe.path}: it is a pipe, and"
                raise CaptureFileError(f"{name} has more than {limit} bytes: raise --preload-limit")
        return linktypes

    # ---- from the files -----------------------------------------------------------------------------------------

    def _stream(self, count: int) -> Iterator["NativeSource"]:
        with Stop() as stop:
            ahead = ReadAhead(stop.fileno(), self._rewriter)
            thread = threading.Thread(target=self._read, args=(ahead, count, stop), name="zbuf-readahead", daemon=True)
            start_deaf(thread)
            try:
                yield ahead
            finally:
                stop.set()
                thread.join()
                self.sizes = Sizes(*ahead.sizes)
                ahead.error = None  # its traceback leads back to us

    def _read(self, ahead: ReadAhead, count: int, stop: Stop) -> None:
        try:
            for _ in range(count) if count else itertools.count():
                for group in self._groups:
                    with contextlib.ExitStack() as closing:
                        files = [self._open(number, stop, closing) for number in group]
                        if not ahead.fill(_together(files)) or stop.is_set:
                            return
                if not ahead.next_pass():
                    return
        except Exception as error:
            if not stop.is_set:
                ahead.error = error
        finally:
            ahead.finish()

    def _open(self, number: int, stop: Stop, closing: contextlib.ExitStack) -> OpenFile:
        path = self.paths[number]
        if path == "-":
            if self._standard_input_used:
                raise CaptureFileError("standard input can be read once: save it to a file to stream or loop it")
            self._standard_input_used = True
        file = OpenFile(path, number, stop)
        closing.callback(lambda: self._note_damage(file.close()))
        return file

    def _note_damage(self, damage: str | None) -> None:
        if damage is not None and damage not in self.warnings:
            self.warnings.append(damage)


def _together(files: list[OpenFile]) -> "NativeSource":
    return files[0].capture if len(files) == 1 else Merge([file.capture for file in files])


def _load(store: PacketStore, source: "NativeSource", limit: int, progress: Callable[[int, int], None] | None) -> None:
    """Read everything into memory, or give that up as soon as it is more than the limit."""
    while store.captured_bytes <= limit and store.load(source, _LOAD_PACKETS):
        if progress is not None:
            progress(len(store), store.captured_bytes)


def _common_linktype(interfaces: list[Interface]) -> int:
    first = interfaces[0]
    for one in interfaces:
        if one.linktype != first.linktype:
            raise CaptureFileError(
                f"{one.name}: link type {one.linktype}, where {first.name} has {first.linktype}: "
                "addresses can be changed where all have the same; replay them separately"
            )
    return first.linktype
