"""Segments that killed producers left behind in /dev/shm: found and removed here.

A segment is never touched while its producer lives. A segment that the user may not read is told from one that is gone.
A file that has a segment's name but can't be a segment is skipped, because anybody can make files in /dev/shm.
"""

import contextlib
import os
import re
import stat
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import unread_blocks
from zbuf.shared.memory.segment import SHM, copy_segment, producer_lives
from zbuf.shared.names import NAME_PATTERN

_NAME = re.compile(rf"zbuf\.({NAME_PATTERN})\.([0-9]+)")


@dataclass(frozen=True)
class Found:
    """A segment in /dev/shm, as it was when it was found."""

    producer: str
    descriptor: int
    owner: int
    """User id."""
    state: Literal["left", "alive", "foreign"]
    """Left behind by a killed producer; a living producer's; or another user's, which only root may read."""
    packets: int = 0
    """In one that was left: packets appended, but not known to be acknowledged."""
    length_bytes: int = 0
    """Of those packets' blocks."""
    damage: str = ""
    """Why nothing can be read of one that was left."""

    @property
    def name(self) -> str:
        """Of the shared-memory object."""
        return f"/{self.path.name}"

    @property
    def path(self) -> Path:
        """Where it is in the file system."""
        return SHM / f"zbuf.{self.producer}.{self.descriptor}"

    def open(self) -> int:
        """A new read-only file descriptor of it, the caller's to close; OSError where it is gone."""
        return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)

    def remove(self) -> None:
        """Remove the object, for good."""
        self.path.unlink(missing_ok=True)


def leftovers(producer: str | None = None) -> Iterator[Found]:
    """The segments of this user that killed producers left behind: those named `producer`, or all of them."""
    return (found for found in find_segments(producer, [os.geteuid()]) if found.state == "left")


def find_segments(producer: str | None = None, owners: Container[int] | None = None) -> Iterator[Found]:
    """All segments of producers named `producer`, or of all producers.

    Of those that belong to other users than `owners`, nothing is opened: they are "foreign". By default, a user's own
    are opened, and by root those of all.
    """
    if owners is None:
        owners = range(1 << 32) if os.geteuid() == 0 else [os.geteuid()]
    for entry in sorted(SHM.iterdir()) if SHM.is_dir() else []:
        match = _NAME.fullmatch(entry.name)
        if match is not None and producer in (None, match[1]) and match[2] == str(int(match[2])):
            found = None
            with contextlib.suppress(OSError):  # it is gone, or its own user may not read it
                found = _look_at(entry, match[1], int(match[2]), owners)
            if found is not None:
                yield found


def _look_at(path: Path, producer: str, descriptor: int, owners: Container[int]) -> Found | None:
    """What a file in /dev/shm is; None if it can't be a segment: opening a FIFO would wait for ever."""
    look = path.lstat()
    if not stat.S_ISREG(look.st_mode):
        return None
    found = Found(producer, descriptor, look.st_uid, "foreign")
    if look.st_uid not in owners:
        return found
    fd = found.open()
    try:
        if not os.path.samestat(os.fstat(fd), look):
            return None
        if producer_lives(fd):
            return replace(found, state="alive")
        return replace(found, state="left", **_unread(fd))
    finally:
        os.close(fd)


def _unread(fd: int) -> dict[str, Any]:
    """What was not acknowledged in a dead producer's segment."""
    try:
        memory, layout = copy_segment(fd)
    except SegmentError as error:  # it may have died before the segment was open: then nothing can be in it
        return {"damage": str(error)}
    with memory:
        parts = unread_blocks(memory, layout)
    packets, damaged_bytes = (sum(part[which] for part in parts) for which in (2, 3))
    if damaged_bytes and not packets:
        return {"damage": f"corrupt segment: no whole packet block in {damaged_bytes} bytes"}
    return {"packets": packets, "length_bytes": sum(part[1] for part in parts)}
