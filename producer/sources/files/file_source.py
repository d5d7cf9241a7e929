"""Capture files as a source: kept in memory, or read anew on each pass, or, of pipes, passed on as they come."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zbuf.producer.sources.files.interfaces import FileInterfaces, SourceInterfaces
from zbuf.producer.sources.files.merge import Merge
from zbuf.producer.sources.files.open_file import OpenFile
from zbuf.producer.sources.files.readahead import ReadAhead
from zbuf.producer.sources.files.stopping import Stop, interruptibly, start_deaf
from zbuf.producer.sources.files.store import PacketStore
from zbuf.producer.sources.files.unique import UniqueAddresses
from zbuf.producer.sources.python import File, paths_of
from zbuf.shared.arguments import checked
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.memory.pcapng import Interface

if TYPE_CHECKING:
    from zbuf.producer.ring.contract import NativeSource

DEFAULT_PRELOAD_LIMIT_BYTES = 1 << 30

_LINKTYPE_ETHERNET = 1
_LOAD_PACKETS = 50_000
_LEAST_TABLE_BYTES = 1 << 20
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
    """Capture files: pcap and pcapng, whatever they are compressed with.

    They are read into memory where they fit, to be pumped from there; else they are read anew on each pass, by a thread
    that is some megabytes ahead. On each pass the times go on: it begins a mean gap after the latest packet before.

    A pipe is a stream: its packets are passed on as they come, whatever its length. The source is there as soon as the
    pipe has said of which link type it is.

    A file that is read into memory is mapped there: what somebody writes into it while it is replayed is replayed, too.

    Args:
        paths: the files, or one file; "-" is standard input.
        preload_limit_bytes: how much captured data is kept in memory.
        progress: called with the packets and bytes loaded so far, now and then, from another thread.
        merge: give the packets of all files in the order of their times, in place of one file after the other. Each
            file's own order stays; of packets with the same time, that of the file named first comes first.
        unique_ip: on each pass but the first, give the packets IP addresses of its own; see UniqueAddresses.
        once: passes() will be asked for one pass, once. Else a pipe has to be read into memory, too.

    Raises:
        CaptureFileError: a file is missing, empty or not a capture, or has packets that can't be carried beside others.
        ValueRefused: there are no files, or `unique_ip` does not know their link type.
    """

    @checked
    def __init__(
        self,
        paths: File | Iterable[File],
        preload_limit_bytes: int = DEFAULT_PRELOAD_LIMIT_BYTES,
        progress: Callable[[int, int], None] | None = None,
        *,
        merge: bool = False,
        unique_ip: bool = False,
        once: bool = True,
    ) -> None:
        self.paths = paths_of(paths)
        if self.paths.count("-") > 1:
            raise CaptureFileError("standard input can be read once: save it to a file to name it twice")
        self.damage: list[str] = []
        """Damage found in the files, a line each."""
        self.warnings: list[str] = []
        """The damage, and whatever else there is to say of the files, a line each."""
        self.sizes = Sizes([0] * len(Sizes.LIMITS), 0)
        """How large the packets are; of files that are not in memory, as far as the last passes() read them."""
        numbers = list(range(len(self.paths)))
        self._groups = [numbers] if merge else [[number] for number in numbers]
        self._limit = preload_limit_bytes
        self._once = once
        self._known = SourceInterfaces()
        self._store: PacketStore | None = None
        self._pipes: list[OpenFile] | None = None
        """The files, where one is a pipe, for the one pass that there is."""
        self._stop = Stop()
        try:
            interruptibly(lambda _: self._begin(progress), self._stop)
            self._rewriter = UniqueAddresses(_common_linktype(self.interfaces)) if unique_ip else None
        except BaseException:
            self.close()
            raise
        if self._pipes is None:
            self.close()

    def __repr__(self) -> str:
        return f"<zbuf file source of {', '.join(self.paths)}>"

    @property
    def linktype(self) -> int:
        """LINKTYPE_ value of the first interface; Ethernet where there is none."""
        return self.interfaces[0].linktype

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces of all files that are known so far, in the order of their numbers."""
        return self._known.found or [Interface(os.path.basename(self.paths[0]) or self.paths[0], _LINKTYPE_ETHERNET)]

    @property
    def recordings(self) -> list[int]:
        """Which recording each interface is of, see Pace.set_recordings(): its file, or with `merge` all are of one."""
        return [0] * len(self._known.files) if len(self._groups) == 1 else self._known.files

    def passes(self, count: int) -> Iterator["NativeSource"]:
        """The native sources that give everything `count` times, each to be pumped to its end; 0 is for ever.

        Raises:
            CaptureFileError: it is a pipe that was asked for more than `once`.
        """
        if self._store is not None:
            self._store.rewind(min(count or _FOR_EVER, _FOR_EVER), self._rewriter)
            yield self._store
        elif self._once and self._has_pipe and (count != 1 or self._pipes is None):
            raise CaptureFileError("a pipe can be read once: save it to a file to loop it")
        else:
            yield from self._stream(count)

    def close(self) -> None:
        """Let go of what has been opened, a pipe for one. Again does nothing."""
        if self._stop.is_closed:
            return
        self._stop.set()
        for file in self._pipes or []:
            file.close()
        self._pipes = None
        self._stop.close()

    def __del__(self) -> None:
        if hasattr(self, "_stop"):
            self.close()

    # ---- from memory --------------------------------------------------------------------------------------------

    def _begin(self, progress: Callable[[int, int], None] | None) -> None:
        """Open the files, and load them where that can be."""
        with contextlib.ExitStack() as closing:
            files = [self._open(number, self._stop, closing) for number in range(len(self.paths))]
            self._has_pipe = any(file.is_pipe for file in files)
            if self._once and self._has_pipe:
                closing.pop_all()
                self._pipes = files
                return
            self._load([[files[number] for number in group] for group in self._groups], progress)

    def _load(self, groups: list[list[OpenFile]], progress: Callable[[int, int], None] | None) -> None:
        """Read everything into memory, or give that up as soon as it is more than the limit."""
        store = PacketStore()
        for group in groups:
            source = _together(group)
            while self._fits(store) and store.load(source, _LOAD_PACKETS):
                if progress is not None:
                    progress(len(store), store.captured_bytes)
        if self._fits(store):
            self._store = store
            self.sizes = Sizes(*store.sizes)
            for file in itertools.chain(*groups):
                file.tell_snaplen()
        elif pipe := next((file for group in groups for file in group if file.is_pipe), None):
            name = "standard input" if pipe.path == "-" else f"{pipe.path}: it is a pipe, and"
            raise CaptureFileError(f"{name} has more than {self._limit} bytes: raise --preload-limit")

    def _fits(self, store: PacketStore) -> bool:
        """Whether what is loaded is within the limit: the packets' bytes, and what is kept of them beside."""
        return store.captured_bytes <= self._limit and store.table_bytes <= max(self._limit, _LEAST_TABLE_BYTES)

    # ---- from the files -----------------------------------------------------------------------------------------

    def _stream(self, count: int) -> Iterator["NativeSource"]:
        with Stop() as stop, contextlib.ExitStack() as closing:
            opened, self._pipes = self._pipes, None
            if opened is not None:
                stop = self._stop
                closing.callback(self.close)
            ahead = ReadAhead(stop.fileno(), self._rewriter, interfaces=len(self.interfaces))
            work = (ahead, count, stop, opened)
            thread = threading.Thread(target=self._read, args=work, name="zbuf-readahead", daemon=True)
            start_deaf(thread)
            try:
                yield ahead
            finally:
                stop.set()
                thread.join()
                self.sizes = Sizes(*ahead.sizes)
                ahead.error = None  # its traceback leads back to us

    def _read(self, ahead: ReadAhead, count: int, stop: Stop, opened: list[OpenFile] | None) -> None:
        try:
            for _ in range(count) if count else itertools.count():
                if not self._read_pass(ahead, stop, opened) or not ahead.next_pass():
                    return
        except Exception as error:
            if not stop.is_set:
                ahead.error = error
        finally:
            ahead.finish()

    def _read_pass(self, ahead: ReadAhead, stop: Stop, opened: list[OpenFile] | None) -> bool:
        """Read all files, those that are open already or else anew; False once it has been stopped."""
        with contextlib.ExitStack() as all_files:
            for file in opened or []:
                all_files.callback(self._close_file, file)
            for group in self._groups:
                with contextlib.ExitStack() as closing:
                    if opened is not None:
                        files = [opened[number] for number in group]
                    else:
                        files = [self._open(number, stop, closing) for number in group]
                    if not ahead.fill(_together(files)) or stop.is_set:
                        return False
        return True

    def _open(self, number: int, stop: Stop, closing: contextlib.ExitStack) -> OpenFile:
        path = self.paths[number]
        file = OpenFile(path, FileInterfaces(self._known, number, path), stop)
        closing.callback(self._close_file, file)
        return file

    def _close_file(self, file: OpenFile) -> None:
        file.close()
        for lines, kept in (([file.damage] if file.damage else [], self.damage), (file.warnings, self.warnings)):
            kept += [line for line in lines if line not in kept]


def _together(files: list[OpenFile]) -> "NativeSource":
    return files[0].capture if len(files) == 1 else Merge([file.capture for file in files])


def _common_linktype(interfaces: list[Interface]) -> int:
    first = interfaces[0]
    for one in interfaces:
        if one.linktype != first.linktype:
            raise ValueRefused(
                f"interface {one.name!r} has link type {one.linktype}, where {first.name!r} has {first.linktype}: "
                "addresses can be changed only where all have the same; leave --unique-ip out"
            )
    return first.linktype
