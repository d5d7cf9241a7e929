"""Segments: made, opened, mapped, checked and removed here and nowhere else.

A segment is a POSIX shared-memory object ``/zbuf.<producer>.<descriptor>``, mode 0600. Its memory is reserved with
posix_fallocate(3) when it is made, so that a full /dev/shm is an error then and not a SIGBUS later. The producer holds
a write lock on it for as long as it lives (an open file description lock, fcntl(2)), by which everybody can tell a
living producer's segment from one that a killed producer left behind. Readers can't take that lock, because their file
descriptors are read-only.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import posix_ipc

from zbuf.shared.errors import SegmentError, ValueRefused
from zbuf.shared.memory.layout import (
    HEADER_BYTES,
    PAGE_BYTES,
    Layout,
    check_buffer_bytes,
    open_segment,
    read_layout,
    write_layout,
)
from zbuf.shared.memory.mapped import put_in, take_out

SHM = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory, shm_overview(7))
_LENGTHS = struct.Struct("<4xI56xI")  # of struct zbuf_header: kernel_len, and the lower half of store_len
_PIECE_BYTES = 16 << 20
_UNLIMITED_BYTES = 1 << 62
_UNMAPS = "zbuf-unmap"
_starting = threading.Lock()
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux


class Segment:
    """One descriptor's shared memory on the producer's side, from its creation to remove().

    Args:
        layout: what to make; the object's name ends in `layout.descriptor`.
        prologue: the pcapng blocks before the first packet, `layout.prologue_bytes` of them.
        check: called now and then while memory is reserved, which may take seconds; it raises to give up.

    Raises:
        SegmentError: /dev/shm has no room for it, or does not permit it.
        FileExistsError: an object of that name already exists.
    """

    def __init__(self, layout: Layout, prologue: bytes, check: Callable[[], None] = lambda: None) -> None:
        if len(prologue) > layout.prologue_bytes:
            raise ValueRefused(f"prologue of {len(prologue)} bytes, with room for {layout.prologue_bytes}")
        _start_unmapping()  # now, since whoever calls discard() must not wait
        self.layout = layout
        self.name = f"/zbuf.{layout.producer}.{layout.descriptor}"
        fd, self._lock_fd = _create(self.name, layout.segment_bytes, check)
        try:
            self.map = mmap.mmap(fd, layout.segment_bytes)
            put_in(self.map)  # before the first packet, so that no page fault slows the packet path
            write_layout(self.map, layout)
            self.map[layout.prologue_offset : layout.prologue_offset + len(prologue)] = prologue
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(fd)

    def open(self) -> None:
        """Let readers in; the buffers' headers must be set up before."""
        open_segment(self.map)

    def reader_fd(self) -> int:
        """A new read-only file descriptor of the segment, which the caller closes; SegmentError once it is removed."""
        try:
            return int(posix_ipc.SharedMemory(self.name, read_only=True).fd)
        except posix_ipc.ExistentialError:
            raise SegmentError(f"segment {self.name} was removed: connect without joining it") from None
        except (posix_ipc.Error, OSError) as error:
            raise SegmentError(f"segment {self.name} can't be opened: {error}") from None

    def remove(self) -> None:
        """Remove the name and give up the lock. All mappings live on until they are dropped."""
        _unlink(self.name)
        self.unlock()

    def discard(self) -> None:
        """Remove it and drop our mapping, which must not be in use any more; the readers keep theirs.

        A thread that does nothing else gives the memory back: that takes long, and whoever calls may feed packets.
        """
        _unlink(self.name)
        kept_fd, self._lock_fd = self._lock_fd, -1
        if kept_fd >= 0:
            _lock(kept_fd, fcntl.F_UNLCK)
        _to_unmap.put((self.map, kept_fd))

    def unlock(self) -> None:
        """Give up only the lock, as a forked child does, which is not the producer."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._lock_fd = -1


def _create(name: str, size: int, check: Callable[[], None]) -> tuple[int, int]:
    """A new object of that size: a file descriptor to map, and another that holds the write lock.

    Two, because a mapping keeps a duplicate of its file descriptor, and with it a lock, for as long as it lives.
    """
    fd = _open_new(name)
    try:
        lock_fd = posix_ipc.SharedMemory(name).fd
    except (posix_ipc.Error, OSError) as error:
        os.close(fd)
        _unlink(name)
        raise SegmentError(f"segment {name} can't be made: {error}") from None
    _lock(lock_fd, fcntl.F_WRLCK)
    try:
        _reserve(fd, name, size, check)
    except BaseException:
        os.close(fd)
        os.close(lock_fd)
        _unlink(name)
        raise
    return fd, lock_fd


def _reserve(fd: int, name: str, size: int, check: Callable[[], None]) -> None:
    if size > shared_memory()[1]:  # before the pieces take what is left from everybody else
        raise SegmentError(_no_room(size))
    for at in range(0, size, _PIECE_BYTES):
        check()
        try:
            os.posix_fallocate(fd, at, min(_PIECE_BYTES, size - at))
        except OSError as error:
            raise SegmentError(_no_room(size) if error.errno == errno.ENOSPC else f"segment {name}: {error}") from None


def _open_new(name: str) -> int:
    try:
        return int(posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0).fd)
    except posix_ipc.ExistentialError:
        raise FileExistsError(name) from None
    except (posix_ipc.Error, OSError) as error:
        raise SegmentError(f"segment {name} can't be made: {error}") from None


def check_space(buffer_bytes: int) -> None:
    """Check the size of a buffer, and that there is room for two of them now.

    Raises:
        ValueRefused: the size breaks the rules, see check_buffer_bytes(), although it is rounded up to whole pages.
        SegmentError: /dev/shm has no room for them.
    """
    pages = buffer_bytes + -buffer_bytes % PAGE_BYTES
    check_buffer_bytes(pages)
    if SHM.is_dir() and 2 * pages > shared_memory()[1]:
        raise SegmentError(_no_room(2 * pages))


def shared_memory() -> tuple[int, int]:
    """The size of /dev/shm and what is free of it, in bytes; both are beyond any segment where it has no limit."""
    space = os.statvfs(SHM)
    if space.f_blocks == 0:
        return _UNLIMITED_BYTES, _UNLIMITED_BYTES
    return space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize


def _no_room(size: int) -> str:
    return (
        f"two buffers need {size} bytes of shared memory, {SHM} has {shared_memory()[1]} free: "
        "use smaller buffers, or give it more"
    )


def _unlink(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def _lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


def _unmap(memory: mmap.mmap, fd: int) -> None:
    """Drop a mapping, and then the file descriptor of the same memory, with which the kernel frees what nobody maps.

    In this order, close(2) has most of the work, and lets other threads run meanwhile; munmap(2) in mmap.close() not.
    """
    take_out(memory)
    memory.close()
    if fd >= 0:
        os.close(fd)


_to_unmap: SimpleQueue[tuple[mmap.mmap, int]] = SimpleQueue()


def _unmap_for_ever(queue: SimpleQueue[tuple[mmap.mmap, int]]) -> None:
    while True:
        _unmap(*queue.get())


def _start_unmapping() -> None:
    """Have a thread wait for what is to be unmapped, one for each process."""
    with _starting:
        if not any(thread.name == _UNMAPS for thread in threading.enumerate()):
            threading.Thread(target=_unmap_for_ever, args=(_to_unmap,), name=_UNMAPS, daemon=True).start()


def producer_lives(fd: int) -> bool:
    """Whether the producer of the segment open at `fd` is alive: the kernel knows who holds the write lock."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def map_segment(fd: int, *, closed_too: bool = False) -> tuple[mmap.mmap, Layout]:
    """Map the segment open at `fd` read-only and check it.

    Raises:
        SegmentError: it is half-made, foreign or damaged; the message says which (see read_layout()).
    """
    size = _size_of(fd)
    try:
        memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
    except (OSError, OverflowError, ValueError) as error:
        raise SegmentError(f"segment of {size} bytes: it can't be mapped: {error}") from None
    try:
        return memory, read_layout(memory, closed_too)
    except SegmentError:
        memory.close()
        raise


def copy_segment(fd: int) -> tuple[mmap.mmap, Layout]:
    """Copy the part in use of the dead producer's segment open at `fd` to memory of our own, and check it.

    The owner of a segment can change it, or cut it short, after which reading a mapping of it raises SIGBUS. Nobody can
    change the copy between check and use.

    Raises:
        SegmentError: as map_segment() does, except for a closed one; or there is no memory for it.
    """
    size = _size_of(fd)
    try:
        memory = mmap.mmap(-1, size)  # pages that are never written take no memory
    except (OSError, OverflowError, ValueError) as error:
        raise SegmentError(f"segment of {size} bytes: too large to be copied: {error}") from None
    try:
        return memory, _copy_parts(fd, memory)
    except BaseException:
        memory.close()
        raise


def _copy_parts(fd: int, memory: mmap.mmap) -> Layout:
    _copy(fd, memory, 0, PAGE_BYTES)
    layout = read_layout(memory, closed_too=True)
    _copy(fd, memory, layout.prologue_offset, layout.prologue_bytes)
    for offset in layout.buffer_offsets:
        _copy(fd, memory, offset, HEADER_BYTES)
        used = max(_LENGTHS.unpack_from(memory, offset))
        _copy(fd, memory, offset + HEADER_BYTES, min(used, layout.buffer_bytes - HEADER_BYTES))
    return layout


def _size_of(fd: int) -> int:
    size = os.fstat(fd).st_size
    if size == 0:
        raise SegmentError("segment of 0 bytes: its producer is still making it, or died doing so")
    return size


def _copy(fd: int, memory: mmap.mmap, offset: int, length: int) -> None:
    """Copy a range of a segment; where it was cut short, the copy stays zero."""
    end = min(offset + length, len(memory))
    with memoryview(memory) as view:
        while offset < end:
            with view[offset:end] as rest:
                count = os.preadv(fd, [rest], offset)
            if count == 0:
                return
            offset += count
