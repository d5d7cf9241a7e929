"""Packets that nobody had acknowledged when their producer was killed, as pcapng files.

A segment that was left behind may be damaged, and root may meet one of any user. So it is first copied and then
checked, and only whole blocks that every pcapng program accepts are written. Such a file has no statistics at its end,
because the ledger in a segment is as old as its last rotation and would not agree with the packets.
"""

import contextlib
import logging
import mmap
import os
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zbuf.shared.closing import Closing
from zbuf.shared.errors import SegmentError, ZbufError
from zbuf.shared.memory.layout import Layout, announced, unread_blocks
from zbuf.shared.memory.leftovers import Found, leftovers
from zbuf.shared.memory.pcapng import described, first_interfaces, interfaces
from zbuf.shared.memory.segment import copy_segment, producer_lives

log = logging.getLogger("zbuf")

_PIECE_BYTES = 256 << 10
_PACKET = 6  # an Enhanced Packet Block
_OF_THE_FILE = frozenset((0x0A0D0D0A, 1, 2, 3))  # a section, an interface, packets of other kinds: none belongs there
_BLOCK = struct.Struct("<7I")  # of an Enhanced Packet Block: type, length, interface, time (2), captured, original


@dataclass(frozen=True)
class Salvaged:
    """A file that was written."""

    path: str
    producer: str
    descriptor: int
    packets: int
    left_out_bytes: int
    """Bytes that are not in the file: damaged blocks and everything after them."""
    length_bytes: int
    """The size of the file."""
    first_ns: int | None
    """Time of the earliest packet, nanoseconds since 1970; None without packets."""
    last_ns: int | None
    """Time of the latest packet."""


def salvage(found: Found, path: str, *, remove: bool = False) -> Salvaged:
    """Write the unread packets of a segment that was left behind to a pcapng file, and sync it.

    Args:
        found: the segment, see find_segments().
        path: the file; an existing regular file is overwritten. "-" is standard output.
        remove: remove the segment afterwards, if all its packets were written.

    Raises:
        SegmentError: nothing in the segment can be read, or its producer is not dead. No file is made.
        ZbufError: the file can't be written, because the disk is full for example. What was written stays and is a
            valid file; the segment stays too.
    """
    with _opened(found) as fd:
        with _Unread(fd, found) as unread:
            salvaged = _write_file(unread, path)
        if remove and salvaged.left_out_bytes == 0:
            _remove(found, fd)
    return salvaged


def salvage_all(producer: str | None, directory: Path, *, remove: bool = False) -> list[Salvaged]:
    """Write what this user's killed producers left unread to new files in `directory`.

    The files are NAME-<descriptor>-<time of the latest packet, UTC>.pcapng. A segment of which nothing can be read is
    logged and skipped.

    Args:
        producer: the producers' name; None for all.
        directory: where the files are made.
        remove: remove a segment once all its packets are in a file, or if it has none.

    Raises:
        ZbufError: a file can't be written. The caller must then keep that segment and the ones after it.
    """
    written = []
    for found in leftovers(producer):
        try:
            if found.packets:
                written.append(_salvage_into(found, directory, remove=remove))
            elif remove and not found.damage:
                found.remove()
        except SegmentError as error:
            log.warning("%s", error)
    return written


def _salvage_into(found: Found, directory: Path, *, remove: bool) -> Salvaged:
    with _opened(found) as fd, _Unread(fd, found) as unread:
        seconds, nanoseconds = divmod(time.time_ns() if unread.last_ns is None else unread.last_ns, 1_000_000_000)
        stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
        name = _new_name(f"{directory}/{found.producer}-{found.descriptor}-{stamp}")
        salvaged = _write_file(unread, name, os.O_EXCL)
        if remove and not salvaged.left_out_bytes:
            _remove(found, fd)
    return salvaged


def _new_name(stem: str) -> str:
    """A name that is still free: if a capture file is replayed twice, its packets have the same times."""
    names = (f"{stem}{number}.pcapng" for number in ("", *(f".{number}" for number in range(2, 1000))))
    return next(name for name in names if not os.path.lexists(name))


@contextlib.contextmanager
def _opened(found: Found) -> Iterator[int]:
    """Open a segment whose producer is still dead."""
    try:
        fd = found.open()
    except OSError as error:
        raise SegmentError(f"{found.path}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or producer_lives(fd):
            raise SegmentError(f"{found.path} is a living producer's: read it with zbuf dump {found.producer}")
        yield fd
    finally:
        os.close(fd)


def _remove(found: Found, fd: int) -> None:
    """Remove the segment open at `fd`, unless a new producer has taken its name."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), found.path.lstat()):
            found.remove()


class _Unread(Closing):
    """The blocks of a segment that were not acknowledged: a copy, in pieces of whole blocks."""

    def __init__(self, fd: int, found: Found) -> None:
        self.found = found
        self.packets = 0
        self.left_out_bytes = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.pieces: list[tuple[int, int, int]] = []
        """Start, end and packets of each, in the order in which they were appended."""
        try:
            self.memory, layout = copy_segment(fd)
            parts = unread_blocks(self.memory, layout)
            self.prologue, known = _prologue_before(self.memory, layout, parts)
            for offset, length_bytes, _, damaged_bytes, announced_by_then in parts:
                head = _head(self.memory, offset, length_bytes)
                if known + len(described(head)) == announced_by_then:
                    known = announced_by_then
                else:  # one before was not acknowledged, and is damaged, or the prologue had no room for one
                    head = b""
                blocks = _whole_blocks(self.memory, offset, len(head), offset + length_bytes, known, layout.snaplen)
                whole = self._cut(offset, blocks)
                self.left_out_bytes += damaged_bytes + offset + length_bytes - whole
        except SegmentError as error:
            raise SegmentError(f"{found.path}: {error}") from None

    def _cut(self, start: int, blocks: Iterator[tuple[int, int | None]]) -> int:
        """Make pieces of one buffer's blocks, and count the packets; returns where the last of them ends."""
        end, packets = start, 0
        for end, time_ns in blocks:
            if time_ns is not None:
                packets += 1
                self.first_ns = time_ns if self.first_ns is None else min(self.first_ns, time_ns)
                self.last_ns = time_ns if self.last_ns is None else max(self.last_ns, time_ns)
            if end - start >= _PIECE_BYTES:
                self.pieces.append((start, end, packets))
                self.packets += packets
                start, packets = end, 0
        if end > start:
            self.pieces.append((start, end, packets))
            self.packets += packets
        return end

    def close(self) -> None:
        """Drop the copy."""
        self.memory.close()


def _prologue_before(
    memory: mmap.mmap, layout: Layout, parts: list[tuple[int, int, int, int, int]]
) -> tuple[bytes, int]:
    """The prologue as of the first unread buffer, whose head announces what appeared then, and its interfaces."""
    whole = memory[layout.prologue_offset : layout.prologue_offset + layout.prologue_bytes]
    known = len(interfaces(whole))
    for offset, length_bytes, _, _, announced_by_then in parts[:1]:
        before = announced_by_then - len(described(_head(memory, offset, length_bytes)))
        if 0 < before < known:
            return first_interfaces(whole, before), before
    return whole, known


def _head(memory: mmap.mmap, offset: int, length_bytes: int) -> bytes:
    """The Interface Description Blocks that a buffer begins with."""
    with memoryview(memory) as view, view[offset : offset + length_bytes] as blocks:
        return announced(blocks)


def _whole_blocks(
    memory: mmap.mmap, offset: int, head_bytes: int, end: int, interfaces: int, snaplen: int
) -> Iterator[tuple[int, int | None]]:
    """The end of each block, and the time of a packet, up to the first block that libpcap would refuse.

    unread_blocks() has seen to it that they are whole and that their lengths stay inside; libpcap wants more.
    """
    offset += head_bytes
    if head_bytes:
        yield offset, None
    while offset < end:
        kind, total = struct.unpack_from("<2I", memory, offset)
        offset += total
        if kind in _OF_THE_FILE:
            return
        if kind != _PACKET:
            yield offset, None
            continue
        _, _, interface, high, low, caplen, _ = _BLOCK.unpack_from(memory, offset - total)
        if interface >= interfaces or caplen > snaplen:
            return
        yield offset, high << 32 | low


# ---- the file -------------------------------------------------------------------------------------------------------


def _write_file(unread: _Unread, path: str, flags: int = 0) -> Salvaged:
    fd = 1 if path == "-" else _open_file(path, flags)
    try:
        length_bytes = _write_all(unread, path, fd)
    finally:
        if fd != 1:
            os.close(fd)
    return Salvaged(
        path=path,
        producer=unread.found.producer,
        descriptor=unread.found.descriptor,
        packets=unread.packets,
        left_out_bytes=unread.left_out_bytes,
        length_bytes=length_bytes,
        first_ns=unread.first_ns,
        last_ns=unread.last_ns,
    )


def _open_file(path: str, flags: int) -> int:
    """Open an empty regular file that is as private as the segment was."""
    try:
        fd = os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        raise ZbufError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)
        return fd
    os.close(fd)
    raise ZbufError(f"{path} is not a regular file: name another, or write to standard output with -w -")


def _write_all(unread: _Unread, path: str, fd: int) -> int:
    """Write the file, and return its length."""
    packets = length_bytes = 0
    try:
        length_bytes += _write(fd, memoryview(unread.prologue))
        with memoryview(unread.memory) as blocks:
            for start, end, count in unread.pieces:
                with blocks[start:end] as piece:
                    length_bytes += _write(fd, piece)
                packets += count
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.fsync(fd)  # a full disk, or one on the network, may report it only now
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ZbufError(
            f"{path}: {error.strerror}: it holds {packets} of the {unread.packets} packets, and "
            f"{unread.found.path} has them all still"
        ) from None
    return length_bytes


def _write(fd: int, data: memoryview) -> int:
    """Write all of it or nothing: with part of a block, the file would not be valid."""
    done = 0
    try:
        while done < len(data):
            done += os.write(fd, data[done:])
    except OSError:
        with contextlib.suppress(OSError):  # a pipe can't be cut
            os.ftruncate(fd, os.lseek(fd, -done, os.SEEK_CUR))
        raise
    return done
