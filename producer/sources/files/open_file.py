"""A capture file being read by libpcap: pcap or pcapng, gzipped or not, from a disk or by a pipe."""

import contextlib
import gzip
import io
import os
import select
import shutil
import stat
import threading
import zlib
from typing import Any

from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.stopping import Stop, start_deaf
from zbuf.shared.errors import CaptureFileError

_COPY_BYTES = 1 << 16
_GZIP_MAGIC = b"\x1f\x8b"


class OpenFile:
    """A capture file being read, with the thread that decompresses it, if it is gzipped.

    libpcap reads a stdio stream that nobody else has looked into: what comes by a pipe goes through the thread too. The
    thread waits for its input or for `stop`, whichever comes first, so that libpcap waits no longer than that either.

    Args:
        path: the file; "-" is standard input.
        interface: the interface number that its packets get.
        stop: where it is set, what comes by a pipe is over.

    Raises:
        CaptureFileError: it is missing, empty or not a capture.
    """

    def __init__(self, path: str, interface: int, stop: Stop) -> None:
        self.path = path
        self._stop = stop
        self._pipe_error: str | None = None
        self._thread: threading.Thread | None = None
        fd = _open_path(path)
        self.is_pipe = not _is_seekable(fd)
        if self.is_pipe or os.pread(fd, 2, 0) == _GZIP_MAGIC:
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
        start_deaf(self._thread)
        return reading

    def _copy(self, fd: int, writing: int) -> None:
        with (
            contextlib.suppress(BrokenPipeError),  # the reader has had enough
            io.BufferedReader(_UntilStopped(fd, self._stop), _COPY_BYTES) as packed,
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
        if self._stop.is_set:
            return None  # it was cut by us
        if self._pipe_error:
            return f"{self.path}: {self._pipe_error} ({self.capture.packets} whole packets before)"
        return self.capture.damage


class _UntilStopped(io.RawIOBase):
    """What comes by a file descriptor, which it closes; it ends at its end, or when it has been stopped."""

    def __init__(self, fd: int, stop: Stop) -> None:
        self._fd = fd
        self._stop_fd = stop.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._stop_fd, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while all(ready != self._stop_fd for ready, _ in self._poll.poll()):
            with contextlib.suppress(BlockingIOError):  # somebody else has read it
                return os.readv(self._fd, [buffer])
        return 0

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()


def _open_path(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # open(2) of a FIFO would wait for a writer
    try:
        fd = os.dup(0) if path == "-" else os.open(path, flags)
    except OSError as error:
        raise CaptureFileError(f"{path}: {error.strerror}") from None
    mode = os.fstat(fd)
    if stat.S_ISDIR(mode.st_mode) or (stat.S_ISREG(mode.st_mode) and mode.st_size == 0):
        os.close(fd)
        what = "a directory, not a capture file" if stat.S_ISDIR(mode.st_mode) else "the file is empty"
        raise CaptureFileError(f"{path}: {what}")
    return fd


def _is_seekable(fd: int) -> bool:
    try:
        os.pread(fd, 1, 0)
    except OSError:
        return False
    return True
