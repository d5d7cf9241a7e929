"""Capture files read by libpcap, and pumped without the GIL; see packet_sources for everything else."""

import contextlib
import gzip
import os
import shutil
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator

from zbuf.producer.libpcap import CaptureFile, PacketStore
from zbuf.shared.errors import CaptureFileError, ValueRefused
from zbuf.shared.pcapng import Interface

DEFAULT_PRELOAD_LIMIT_BYTES = 1 << 30

_LOAD_PACKETS = 50_000
_COPY_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"


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
        with contextlib.ExitStack() as closing:
            files: list[_OpenFile] = []
            for number in range(len(self.paths)):
                files.append(self._open(number))
                closing.callback(files[-1].close)
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
                try:
                    yield file.capture
                finally:
                    self._note_damage(file.close())
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

    def _note_damage(self, damage: str | None) -> None:
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
            return
        for file in files:
            self._note_damage(file.close())
        self._store = store


class _OpenFile:
    """A capture file being read, with the thread that decompresses it, if it is gzipped.

    libpcap reads a stdio stream that nobody else has looked into: what comes by a pipe goes through the thread too.
    """

    def __init__(self, path: str, interface: int) -> None:
        self._path = path
        self._pipe_error: str | None = None
        self._thread: threading.Thread | None = None
        fd = _open_path(path)
        if _needs_thread(fd):
            fd = self._start_thread(fd)
        try:
            self.capture = CaptureFile(fd, path, interface)
        except CaptureFileError as error:
            self._join()
            why = f"{path}: not a capture file: {self._pipe_error}" if self._pipe_error else str(error)
            raise CaptureFileError(why) from None

    def _start_thread(self, fd: int) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._copy, args=(fd, writing), name="zbuf-gunzip", daemon=True)
        self._thread.start()
        return reading

    def _copy(self, fd: int, writing: int) -> None:
        with (
            contextlib.suppress(BrokenPipeError),  # the reader has had enough
            os.fdopen(fd, "rb") as packed,
            os.fdopen(writing, "wb", buffering=0) as pipe,
        ):
            if packed.peek(2)[:2] != _GZIP_MAGIC:
                shutil.copyfileobj(packed, pipe, _COPY_BYTES)
                return
            try:
                with gzip.GzipFile(fileobj=packed) as plain:
                    while some := plain.read1(_COPY_BYTES):  # what is whole comes before what is damaged
                        pipe.write(some)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                self._pipe_error = f"damaged gzip file: {error}"

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def close(self) -> str | None:
        """Close the file, or do nothing if it was; returns what damage was found in it, or None."""
        self.capture.close()
        self._join()
        if self._pipe_error:
            return f"{self._path}: {self._pipe_error} ({self.capture.packets} whole packets before)"
        return self.capture.damage


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


def _needs_thread(fd: int) -> bool:
    try:
        return os.pread(fd, 2, 0) == _GZIP_MAGIC
    except OSError:
        return True  # a pipe, which can't be looked into


def _common_linktype(files: list[_OpenFile]) -> int:
    for path, linktype in ((file._path, file.capture.linktype) for file in files):
        if linktype != files[0].capture.linktype:
            first = f"{files[0]._path} has {files[0].capture.linktype}"
            raise CaptureFileError(f"{path}: link type {linktype}, where {first}: replay them separately")
    return files[0].capture.linktype
