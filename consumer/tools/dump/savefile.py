"""One capture file: pcapng or classic pcap, whole after each write, compressed or not.

The packets of a buffer are one write(2), those of pcapng straight from shared memory. With gzip they are one member
(RFC 1952), of which a file may have many. With Zstandard they are whole blocks of the file's one frame (RFC 8878),
because Wireshark 4.0 reads only one frame. So a file can be read while it grows, and a killed dump cuts at most one
block or member.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Protocol

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks, Part
from zbuf.consumer.tools.dump.pcap import check_one_linktype, pcap_header, warn_of_late_times
from zbuf.consumer.tools.dump.trailer import closing_blocks
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.errors import ZbufError

_STDOUT = 1
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1  # the fastest levels: a capture does not wait
_GZIP_WINDOW_BITS = 31  # asks zlib for gzip's header and trailer


class Compression(StrEnum):
    """How files are compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"


class Savefile:
    """A capture file that is being written.

    Args:
        path: the name of the file; "-" is standard output.
        reader: the reader whose packets the file will hold.
        compression: how to compress; None for no compression.
        clobber: whether to overwrite a file that exists.
        classic: whether to write classic pcap, which has one link type, and names no interfaces.

    Raises:
        ZbufError: the file can't be made or written: the disk may be full. What was written stays, as a whole file.
            Or the packets have several link types, and the file is to be classic pcap.
    """

    def __init__(
        self,
        path: str,
        reader: Reader,
        *,
        compression: Compression | None = None,
        clobber: bool = True,
        classic: bool = False,
    ) -> None:
        if classic:
            check_one_linktype(reader)
        self.path = path
        self.packets = 0
        """How many packets the file has."""
        self.size = 0
        """The bytes of the file, before compression."""
        self._reader = reader
        self._classic = classic
        self._compressor = make_compressor(compression)
        self._started_ns = time.time_ns()
        self._fd = _STDOUT if path == "-" else _make(path, clobber=clobber)
        self._interfaces = len(reader.interfaces)  # that it describes
        with self._cut_back_on_error():
            prologue = pcap_header(reader.linktype, reader.snaplen) if classic else reader.prologue
            self._write(memoryview(prologue))

    def take(self, blocks: Blocks, first: int, last: int) -> None:
        """Write the packets from number `first` to the one before `last`.

        A file that began with this buffer, or in the midst of it, describes the interfaces at its head already.
        """
        part = self.part(blocks)
        if self._classic and blocks.records.late:
            warn_of_late_times()
        announces = first == 0 and blocks.buffer.interfaces > self._interfaces
        if announces and self._classic:
            check_one_linktype(self._reader)
        head_bytes = part.head_bytes if announces else 0
        with (
            self._cut_back_on_error(part, first, head_bytes),
            part.view(first, last, with_head=announces) as data,
        ):
            self._write(data)
        if announces:
            self._interfaces = blocks.buffer.interfaces
        self.packets += last - first

    def part(self, blocks: Blocks) -> Part:
        """The packets of a buffer in the form that this file has."""
        return blocks.records if self._classic else blocks

    def finish(self, ledger: Ledger) -> None:
        """Write the statistics and close the file."""
        with self._cut_back_on_error():
            self._write(memoryview(self._closing(self._started_ns, ledger)))
            self._put(self._compressor.end())
        self.close()

    def close(self) -> None:
        """Close the file as it is; a second call does nothing."""
        if self._fd not in (_STDOUT, -1):
            os.close(self._fd)
        self._fd = -1

    def discard(self) -> None:
        """Close the file and remove it; a device or a pipe stays."""
        is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self.close()
        if is_file:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    @property
    def closing_size(self) -> int:
        """The bytes that finish() will add, before compression."""
        return len(self._closing(0, Ledger()))

    def _closing(self, started_ns: int, ledger: Ledger) -> bytes:
        return b"" if self._classic else closing_blocks(self._interfaces, started_ns, ledger)

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
    def _cut_back_on_error(self, part: Part | None = None, first: int = 0, head_bytes: int = 0) -> Iterator[None]:
        """If a write fails, cut the file after the last whole packet, so that the file can be read.

        The `with` block writes the packets from number `first` on, after `head_bytes` of the buffer's head.
        """
        self._unfinished = 0
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            kept = 0
            if part is not None and isinstance(self._compressor, _Plain) and self._unfinished >= head_bytes:
                kept = part.fitting(first, self._unfinished - head_bytes)
                self._unfinished -= head_bytes + part.size(first, first + kept)
            self.packets += kept
            with contextlib.suppress(OSError):  # a pipe keeps what it has
                os.ftruncate(self._fd, os.lseek(self._fd, -self._unfinished, os.SEEK_CUR))
                os.write(self._fd, self._compressor.end())
            self.close()
            left = f"it holds {self.packets} packets, and is whole" if self.size else "nothing is written"
            raise ZbufError(f"{self.path}: {error.strerror}: {left}") from None


def try_to_make(path: str, *, clobber: bool) -> None:
    """Raise the error that making this file would raise; it is left as it is, or not there.

    A pipe is not tried: to open it takes whoever reads it.
    """
    is_new = not os.path.lexists(path)
    is_there = os.path.exists(path)
    if path == "-" or (is_there and stat.S_ISFIFO(os.stat(path).st_mode)) or not (is_new or is_there or not clobber):
        return  # the last is a link to what is not there
    os.close(_open(path, os.O_EXCL if is_new or not clobber else 0, create=is_new or not clobber))
    if is_new:
        os.unlink(path)


def _make(path: str, *, clobber: bool) -> int:
    return _open(path, os.O_TRUNC if clobber else os.O_EXCL)


def _open(path: str, more: int, *, create: bool = True) -> int:
    try:
        return os.open(path, os.O_WRONLY | (os.O_CREAT if create else 0) | more | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ZbufError(f"{path}: the file exists, and --no-clobber keeps it: choose another name") from None
    except OSError as error:
        raise ZbufError(f"{path}: {error.strerror}") from None


# ---- compression ----------------------------------------------------------------------------------------------------


class _Compressor(Protocol):
    def compress(self, data: memoryview) -> memoryview | bytes:
        """Compress data into bytes that can be read back as soon as they are written."""

    def end(self) -> bytes:
        """The bytes that end a file."""


class _Plain:
    def compress(self, data: memoryview) -> memoryview:
        return data

    def end(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self) -> None:
        import zlib

        self._compress = zlib.compress

    def compress(self, data: memoryview) -> bytes:
        return self._compress(data, _GZIP_LEVEL, _GZIP_WINDOW_BITS)

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


def make_compressor(compression: Compression | None) -> _Compressor:
    """What compresses a file. The first call imports what it needs: make one before privileges are given up."""
    kinds: dict[Compression | None, Callable[[], _Compressor]] = {
        None: _Plain,
        Compression.GZIP: _Gzip,
        Compression.ZSTD: _Zstd,
    }
    return kinds[compression]()
