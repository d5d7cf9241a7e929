"""Compressed files: recognised by their first bytes, whatever their names are, and unpacked in bounded memory.

A gzip, zstd, lz4, xz or bzip2 file may have several parts, one after the other, as `cat a.gz b.gz` makes them. A few
bytes can unpack to gigabytes: the data comes in small pieces, and is never in memory as a whole.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD_BYTES = 6
"""How many bytes at the beginning of a file tell how it is compressed."""

_PIECE_BYTES = 1 << 16
_END_BYTES = 64
_DICTIONARY_BYTES = 256 << 20
"""How much memory xz may use; its strongest preset takes 65 MiB. zstd has a limit of its own, 128 MiB."""
_ERRORS = (EOFError, OSError, RuntimeError, ValueError, zlib.error, lzma.LZMAError, zstd.ZstdError)


class DamagedData(Exception):
    """Compressed data is damaged, or ends too early."""


class _Decompressor(Protocol):
    """A decompressor as the modules of the standard library have it; lz4's is alike."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib's decompressor, made like the others: it keeps the input that it had no room for."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # with gzip's header and checksum
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length and not self._inner.unconsumed_tail
        return piece


@dataclass(frozen=True)
class Compression:
    """A way of compressing files."""

    name: str
    magics: tuple[bytes, ...]
    make: Callable[[], _Decompressor]
    padded: bool = False
    """Whether a part may be followed by zeros."""

    def begins(self, head: bytes) -> bool:
        """Whether these bytes are the beginning of a file, or of a part, of this kind."""
        return head.startswith(self.magics)


_SKIPPABLE = tuple(bytes([0x50 + number, 0x2A, 0x4D, 0x18]) for number in range(16))  # zstd's frames with no data

KNOWN = (
    Compression("gzip", (b"\x1f\x8b",), _Gunzip, padded=True),
    Compression("zstd", (b"\x28\xb5\x2f\xfd", *_SKIPPABLE), zstd.ZstdDecompressor),
    Compression("lz4", (b"\x04\x22\x4d\x18",), lz4.frame.LZ4FrameDecompressor),
    Compression(
        "xz", (b"\xfd7zXZ\0",), lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY_BYTES), padded=True
    ),
    Compression("bzip2", (b"BZh",), bz2.BZ2Decompressor),
)


def compression_of(head: bytes) -> Compression | None:
    """How a file is compressed; None if it is not.

    Args:
        head: its first HEAD_BYTES bytes, or all of it if it is shorter.
    """
    return next((one for one in KNOWN if one.begins(head)), None)


def unpack(compression: Compression, read: Callable[[], bytes]) -> Iterator[bytes]:
    """The data of a compressed file, in pieces of at most 64 KiB.

    Args:
        compression: how it is compressed.
        read: returns the next bytes of the file, as many as it likes; b"" at its end.

    Raises:
        DamagedData: the file is damaged, or ends in the middle of a part. All data before that has been given.
    """
    pieces = _slow_at_the_end(read)

    def more() -> bytes:
        return next(pieces, b"")

    data = more()
    while data:
        part = compression.make()
        yield from _unpack_part(compression, part, data, more)
        data = _next_part(compression, part.unused_data or b"", more)


def _slow_at_the_end(read: Callable[[], bytes]) -> Iterator[bytes]:
    """The same bytes that `read` returns, but the last ones of the file one by one.

    They are a checksum. If it is wrong, the data unpacked in the same call is lost, which is little then.
    """
    held = b""
    while piece := read():
        held += piece
        if len(held) > _END_BYTES:
            yield held[:-_END_BYTES]
            held = held[-_END_BYTES:]
    for at in range(len(held)):
        yield held[at : at + 1]


def _unpack_part(
    compression: Compression, part: _Decompressor, data: bytes, read: Callable[[], bytes]
) -> Iterator[bytes]:
    try:
        while not part.eof:
            piece = part.decompress(data, _PIECE_BYTES)
            if piece:
                yield piece
            data = b""
            if part.needs_input and not part.eof:
                data = read()
                if not data:
                    raise DamagedData(f"damaged {compression.name} file: it ends in the middle of its data")
    except _ERRORS as error:
        raise DamagedData(f"damaged {compression.name} file: {error}") from None


def _next_part(compression: Compression, data: bytes, read: Callable[[], bytes]) -> bytes:
    """The first bytes of the next part; b"" at the end of the file.

    Args:
        data: what has been read already of what follows the part before.
    """
    while True:
        if compression.padded:
            data = data.lstrip(b"\0")
        if len(data) >= HEAD_BYTES:
            break
        more = read()
        if not more:
            break
        data += more
    if data and not compression.begins(data):
        raise DamagedData(f"damaged {compression.name} file: something else follows its data")
    return data
