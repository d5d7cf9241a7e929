"""One capture file: pcapng, whole after each write, compressed or not.

What is taken from a buffer is one write(2), straight from shared memory; compressed, it is a gzip member (RFC 1952),
of which a file may have any number, or whole blocks of one Zstandard frame (RFC 8878): Wireshark 4.0 does not read
several frames. So a file can be read while it grows, and a dump that is killed leaves at most one block or member cut.
"""

import contextlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.trailer import closing_blocks
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.errors import ZbufError

_STDOUT = 1
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1  # the fastest: a capture does not wait
_GZIP_WINDOW_BITS = 31  # zlib's word for gzip's header and trailer


class Compression(StrEnum):
    """How files are compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"


class Savefile:
    """A capture file that is being written.

    Args:
        path: its name; "-" is standard output.
        reader: whose packets it will have.
        compression: None for none.
        clobber: write over a file that is there.

    Raises:
        ZbufError: it can't be made or written, a full disk for one. What was written stays, and is a whole file.
    """

    def __init__(
        self, path: str, reader: Reader, *, compression: Compression | None = None, clobber: bool = True
    ) -> None:
        self.path = path
        self.packets = 0
        """How many it has."""
        self.size = 0
        """Its bytes, before compression."""
        self._reader = reader
        self._compressor = _compressor(compression)
        self._started_ns = time.time_ns()
        self._fd = _STDOUT if path == "-" else _open(path, clobber=clobber)
        self._interfaces = len(reader.interfaces)  # that it describes
        with self._cut_back_on_error():
            self._write(memoryview(reader.prologue))

    def take(self, blocks: Blocks, first: int, last: int) -> None:
        """Write the packets from number `first` to the one before `last`.

        A file that began with this buffer, or in the midst of it, describes the interfaces at its head already.
        """
        announces = first == 0 and blocks.buffer.interfaces > self._interfaces
        head_bytes = blocks.head_bytes if announces else 0
        with (
            self._cut_back_on_error(blocks, first, head_bytes),
            blocks.view(first, last, with_head=announces) as data,
        ):
            self._write(data)
        if announces:
            self._interfaces = blocks.buffer.interfaces
        self.packets += last - first

    def finish(self, ledger: Ledger) -> None:
        """Write the statistics and close the file."""
        with self._cut_back_on_error():
            self._write(memoryview(closing_blocks(self._interfaces, self._started_ns, ledger)))
            self._put(self._compressor.end())
        self.close()

    def close(self) -> None:
        """Close the file as it is; doing it again does nothing."""
        if self._fd not in (_STDOUT, -1):
            os.close(self._fd)
        self._fd = -1

    @property
    def closing_size(self) -> int:
        """The bytes that finish() will add, before compression."""
        return len(closing_blocks(self._interfaces, 0, Ledger()))

    # ---- bytes --------------------------------------------------------------------------------------------------

    def _write(self, data: memoryview) -> None:
        if data:
            self._put(self._compressor.compress(data))
            self.size += len(data)

    def _put(self, out: memoryview | bytes) -> None:
        self._unfinished = 0
        with memoryview(out) as whole:
            while self._unfinished < len(whole):
                with whole[self._unfinished :] as rest:
                    self._unfinished += os.write(self._fd, rest)

    @contextlib.contextmanager
    def _cut_back_on_error(self, blocks: Blocks | None = None, first: int = 0, head_bytes: int = 0) -> Iterator[None]:
        """Where a write fails, keep the packets that are whole, so that the file stays a whole one.

        They are those from number `first` on, and come behind `head_bytes` of the buffer's head.
        """
        self._unfinished = 0
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            kept = 0
            if blocks is not None and isinstance(self._compressor, _Plain) and self._unfinished >= head_bytes:
                kept = blocks.fitting(first, self._unfinished - head_bytes)
                self._unfinished -= head_bytes + blocks.size(first, first + kept)
            self.packets += kept
            with contextlib.suppress(OSError):  # a pipe keeps what it has
                os.ftruncate(self._fd, os.lseek(self._fd, -self._unfinished, os.SEEK_CUR))
                os.write(self._fd, self._compressor.end())
            self.close()
            left = f"it holds {self.packets} packets, and is whole" if self.size else "nothing is written"
            raise ZbufError(f"{self.path}: {error.strerror}: {left}") from None


def _open(path: str, *, clobber: bool) -> int:
    existing = os.O_TRUNC if clobber else os.O_EXCL
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | existing | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ZbufError(f"{path}: it exists already, and --no-clobber says to leave it") from None
    except OSError as error:
        raise ZbufError(f"{path}: {error.strerror}") from None


# ---- compression ----------------------------------------------------------------------------------------------------


class _Compressor(Protocol):
    def compress(self, data: memoryview) -> memoryview | bytes:
        """What stands for the data, so that they can be read as soon as it is written."""

    def end(self) -> bytes:
        """What belongs at the end of a file."""


class _Plain:
    def compress(self, data: memoryview) -> memoryview:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def compress(self, data: memoryview) -> bytes:
        return zlib.compress(data, _GZIP_LEVEL, _GZIP_WINDOW_BITS)

    def end(self) -> bytes:
        return b""


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._frame = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        self._flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK

    def compress(self, data: memoryview) -> bytes:
        return self._frame.compress(data) + self._frame.flush(self._flush)

    def end(self) -> bytes:
        return self._frame.flush()


def _compressor(compression: Compression | None) -> _Compressor:
    kinds: dict[Compression | None, Callable[[], _Compressor]] = {
        None: _Plain,
        Compression.GZIP: _Gzip,
        Compression.ZSTD: _Zstd,
    }
    return kinds[compression]()
