"""Capture files read by libpcap, and pumped without the GIL; see packet_sources for everything else."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from zbuf.producer.libpcap import CaptureFile, PacketStore
from zbuf.producer.open_file import OpenFile
from zbuf.producer.stopping import Stop, interruptibly
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.pcapng import Interface

DEFAULT_PRELOAD_LIMIT_BYTES = 1 << 30

_LOAD_PACKETS = 50_000


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
        if not self.paths:
            raise ValueRefused("no capture files: name one at least")
        self.warnings: list[str] = []
        """Damage found in the files, once each."""
        self._store: PacketStore | None = None
        self._standard_input_used = False
        self.linktype = interruptibly(lambda stop: self._begin(stop, preload_limit_bytes, progress))
        self.interfaces = [Interface(os.path.basename(path) or path, self.linktype) for path in self.paths]

    def _begin(self, stop: Stop, limit: int, progress: Callable[[int, int], None] | None) -> int:
        """Open the files, and load them if that can be; returns their link type."""
        with contextlib.ExitStack() as closing:
            files: list[OpenFile] = []
            for number in range(len(self.paths)):
                files.append(self._open(number, stop))
                closing.callback(files[-1].close)
            linktype = _common_linktype(files)
            self._load(files, limit, progress)
        return linktype

    def passes(self, count: int) -> Iterator[CaptureFile | PacketStore]:
        """The native sources that give everything `count` times, each to be pumped to its end; 0 is for ever."""
        if self._store is not None:
            self._store.rewind(count or 2**63)
            yield self._store
            return
        with Stop() as stop:
            while True:
                for number in range(len(self.paths)):
                    file = self._open(number, stop)
                    try:
                        yield file.capture
                    finally:
                        self._note_damage(file.close())
                count -= 1
                if count == 0:
                    return

    def _open(self, number: int, stop: Stop) -> OpenFile:
        path = self.paths[number]
        if path == "-":
            if self._standard_input_used:
                raise CaptureFileError("standard input can be read once: save it to a file to stream or loop it")
            self._standard_input_used = True
        return OpenFile(path, number, stop)

    def _note_damage(self, damage: str | None) -> None:
        if damage is not None and damage not in self.warnings:
            self.warnings.append(damage)

    def _load(self, files: list[OpenFile], limit: int, progress: Callable[[int, int], None] | None) -> None:
        """Read everything into memory, or give that up as soon as it is more than the limit."""
        store = PacketStore()
        for file in files:
            while store.load(file.capture, _LOAD_PACKETS) == _LOAD_PACKETS and store.captured_bytes <= limit:
                if progress is not None:
                    progress(len(store), store.captured_bytes)
        if store.captured_bytes > limit:
            if "-" in self.paths:
                raise CaptureFileError(f"standard input has more than {limit} bytes: raise --preload-limit")
            return
        for file in files:
            self._note_damage(file.close())
        self._store = store


def _common_linktype(files: list[OpenFile]) -> int:
    for path, linktype in ((file.path, file.capture.linktype) for file in files):
        if linktype != files[0].capture.linktype:
            first = f"{files[0].path} has {files[0].capture.linktype}"
            raise CaptureFileError(f"{path}: link type {linktype}, where {first}: replay them separately")
    return files[0].capture.linktype
