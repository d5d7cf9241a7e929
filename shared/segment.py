"""Segments and ack pages: made, opened, mapped, checked and removed here, and nowhere else.

A segment is a POSIX shared-memory object ``/zbuf.<producer>.<descriptor>``, mode 0600. Its memory is reserved with
posix_fallocate(3) when it is made, so that a full /dev/shm is an error then and not a SIGBUS later. The producer holds
a write lock on it for as long as it lives (an open file description lock, fcntl(2)): that is how anyone can tell a
living producer's segment from one that a killed producer left behind. A reader's descriptor is read-only, so a reader
can't take that lock.

An ack page is a memfd, sealed against any change of its size: its reader can't make the producer's look at it fault.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import posix_ipc

from zbuf.shared.errors import SegmentError, ValueRefused, ZbufError
from zbuf.shared.layout import (
    ACK_BYTES,
    Layout,
    check_buffer_bytes,
    open_segment,
    read_layout,
    unread_blocks,
    write_layout,
)

_SHM = Path("/dev/shm")  # noqa: S108  (where Linux keeps POSIX shared memory, shm_overview(7))
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux


class Segment:
    """One descriptor's shared memory on the producer's side, from its making to remove().

    Args:
        layout: what to make; `layout.descriptor` is the number that ends the object's name.
        prologue: the pcapng blocks before the first packet, `layout.prologue_bytes` of them.

    Raises:
        SegmentError: /dev/shm has no room for it, or no permission.
        FileExistsError: an object of that name is there already.
    """

    def __init__(self, layout: Layout, prologue: bytes) -> None:
        if len(prologue) > layout.prologue_bytes:
            raise ValueRefused(f"prologue of {len(prologue)} bytes, with room for {layout.prologue_bytes}")
        self.layout = layout
        self.name = f"/zbuf.{layout.producer}.{layout.descriptor}"
        fd, self._lock_fd = _create(self.name, layout.segment_bytes)
        try:
            # Every page is there before the first packet is: a fault is no part of the packet path.
            self.map = mmap.mmap(fd, layout.segment_bytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
            write_layout(self.map, layout)
            self.map[layout.prologue_offset : layout.prologue_offset + len(prologue)] = prologue
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(fd)

    def open(self) -> None:
        """Let readers in, once the buffers' headers are set up."""
        open_segment(self.map)

    def reader_fd(self) -> int:
        """A new read-only file descriptor of the segment, the caller's to close; SegmentError once it is removed."""
        try:
            return int(posix_ipc.SharedMemory(self.name, read_only=True).fd)
        except posix_ipc.ExistentialError:
            raise SegmentError(f"segment {self.name} was removed: connect without joining it") from None
        except (posix_ipc.Error, OSError) as error:
            raise SegmentError(f"segment {self.name} can't be opened: {error}") from None

    def remove(self) -> None:
        """Remove the name and give up the lock. Mappings, the readers' too, live until they are dropped."""
        _unlink(self.name)
        self.unlock()

    def discard(self) -> None:
        """Remove it, and drop our mapping, which nobody uses any more; the readers keep theirs."""
        self.remove()
        self.map.close()

    def unlock(self) -> None:
        """Give up the lock alone: a forked child does, which is not the producer."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
        self._lock_fd = -1


def _create(name: str, size: int) -> tuple[int, int]:
    """A new object of that size: a file descriptor to map, and another that holds the write lock.

    Two, since a mapping keeps a duplicate of its descriptor, with the lock, for as long as it lives.
    """
    fd = _open_new(name)
    try:
        lock_fd = posix_ipc.SharedMemory(name).fd
    except (posix_ipc.Error, OSError) as error:
        os.close(fd)
        _unlink(name)
        raise SegmentError(f"segment {name} can't be made: {error}") from None
    _write_lock(lock_fd)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        os.close(fd)
        os.close(lock_fd)
        _unlink(name)
        raise SegmentError(_no_room(size) if error.errno == errno.ENOSPC else f"segment {name}: {error}") from None
    return fd, lock_fd


def _open_new(name: str) -> int:
    try:
        return int(posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600, size=0).fd)
    except posix_ipc.ExistentialError:
        raise FileExistsError(name) from None
    except (posix_ipc.Error, OSError) as error:
        raise SegmentError(f"segment {name} can't be made: {error}") from None


def check_space(buffer_bytes: int) -> None:
    """Check the size of a buffer, and that there is room for two of them at the moment.

    Raises:
        ValueRefused: the size breaks the rules, see check_buffer_bytes().
        SegmentError: /dev/shm has no room for them.
    """
    check_buffer_bytes(buffer_bytes)
    if _SHM.is_dir() and 2 * buffer_bytes > _free_bytes():
        raise SegmentError(_no_room(2 * buffer_bytes))


def _free_bytes() -> int:
    space = os.statvfs(_SHM)
    return space.f_bavail * space.f_frsize


def _no_room(size: int) -> str:
    return (
        f"two buffers need {size} bytes of shared memory, {_SHM} has {_free_bytes()} free: "
        "use smaller buffers, or give it more"
    )


def _unlink(name: str) -> None:
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)


def _write_lock(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))


def producer_lives(fd: int) -> bool:
    """Whether the producer of the segment open at `fd` is alive: the kernel knows who holds the write lock."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def map_segment(fd: int, *, closed_too: bool = False) -> tuple[mmap.mmap, Layout]:
    """Map the segment open at `fd` read-only and check it.

    Raises:
        SegmentError: naming the half-made, foreign or damaged state it is in (see read_layout()).
    """
    size = os.fstat(fd).st_size
    if size == 0:
        raise SegmentError("segment of 0 bytes: its producer is still making it, or died doing so")
    memory = mmap.mmap(fd, size, prot=mmap.PROT_READ)
    try:
        return memory, read_layout(memory, closed_too)
    except SegmentError:
        memory.close()
        raise


def make_doorbell() -> tuple[int, int]:
    """A new doorbell: the reader's end and the producer's, of a socket on which bytes go one way only.

    The producer rings with MSG_DONTWAIT and MSG_NOSIGNAL at each ring: nothing that a reader does to its end, or to
    the flags of anything it holds, makes a ring wait or raise a signal.
    """
    reading, ringing = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ringing.shutdown(socket.SHUT_RD)
    for end in (reading, ringing):
        end.setblocking(False)
    return reading.detach(), ringing.detach()


def make_ack_page() -> tuple[int, mmap.mmap]:
    """A new ack page: its file descriptor, to be sent to its reader, and the producer's mapping of it."""
    fd = os.memfd_create("zbuf-ack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, ACK_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, mmap.mmap(fd, ACK_BYTES)
    except BaseException:
        os.close(fd)
        raise


def map_ack_page(fd: int) -> mmap.mmap:
    """Map a reader's own ack page, to be written; raises SegmentError where it is too short to be one."""
    if os.fstat(fd).st_size < ACK_BYTES:
        raise SegmentError(f"ack page of {os.fstat(fd).st_size} bytes: {ACK_BYTES} needed")
    return mmap.mmap(fd, ACK_BYTES)


@dataclass(frozen=True)
class Leftover:
    """A segment whose producer was killed."""

    name: str
    """Of the shared-memory object."""
    packets: int
    """Appended, and not known to be acknowledged by their readers."""

    def remove(self) -> None:
        """Remove the object, for good."""
        _unlink(self.name)


def leftovers(producer: str) -> Iterator[Leftover]:
    """The segments that killed producers named `producer` left behind; those of living ones are passed over."""
    pattern = re.compile(re.escape(f"zbuf.{producer}.") + r"[0-9]+")
    for entry in sorted(_SHM.iterdir()) if _SHM.is_dir() else []:
        if pattern.fullmatch(entry.name):
            packets = _abandoned_packets(f"/{entry.name}")
            if packets is not None:
                yield Leftover(f"/{entry.name}", packets)


def _abandoned_packets(name: str) -> int | None:
    """The unread packets in a dead producer's segment; None where it is alive, gone, or somebody else's."""
    try:
        fd = posix_ipc.SharedMemory(name, read_only=True).fd
    except (posix_ipc.Error, OSError):
        return None
    try:
        if producer_lives(fd) or os.fstat(fd).st_uid != os.geteuid():
            return None
        memory, layout = map_segment(fd, closed_too=True)
        with memory:
            return sum(packets for _, _, packets in unread_blocks(memory, layout))
    except ZbufError:
        return 0  # it died before the segment was open: nothing can be in there
    finally:
        os.close(fd)
