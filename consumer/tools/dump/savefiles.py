"""A series of capture files: when a file ends, what the next one is called, and which files are kept."""

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.savefile import Savefile
from zbuf.shared.control.statistics import Ledger


@dataclass(frozen=True)
class FileLimits:
    """When a file ends and the next one begins; None for no limit."""

    size: int | None = None
    """Bytes of a file, before compression; a file has at least one packet, even if that is larger."""
    packets: int | None = None
    seconds: float | None = None
    interval: float | None = None
    """A file ends when the time of day is a multiple of so many seconds."""
    files: int | None = None
    """The dump ends after so many files."""


class Savefiles:
    """Capture files, one after the other: each packet is in one file, and packets stay in order.

    A file that has no packets when its time is over gets more time, so that only the last file can be empty.

    Args:
        reader: the reader whose packets the files hold.
        open_file: makes the file of a name.
        names: the names of the files.
        limits: when each file ends.
        keep: how many files to keep: the oldest is removed when one more begins; None to keep all.
        told: called with the name of each new file.
    """

    def __init__(
        self,
        reader: Reader,
        open_file: Callable[[str], Savefile],
        names: Iterator[str],
        limits: FileLimits,
        keep: int | None = None,
        told: Callable[[str], object] = str,
    ) -> None:
        self.finished = False
        """Whether the last file is full."""
        self._reader = reader
        self._open_file = open_file
        self._names = names
        self._limits = limits
        self._keep = keep
        self._told = told
        self._kept: deque[str] = deque()
        self._opened = 0
        self._packets_before = 0
        self._deadline: float | None = None
        self._file = self._open()

    @property
    def packets(self) -> int:
        """How many packets were written to all files, with those that were removed."""
        return self._packets_before + self._file.packets

    @property
    def deadline(self) -> float | None:
        """When tick() has something to do, in seconds of time.monotonic()."""
        return self._deadline

    def take(self, blocks: Blocks, last: int) -> int:
        """Write the packets before number `last`; returns how many were written: fewer if the last file is full."""
        if last == 0 == blocks.packets and not self.finished:
            self._file.take(blocks, 0, 0)  # interfaces that appeared, or other blocks
        first = 0
        while first < last and not self.finished:
            fitting = min(last, first + self._fitting(blocks, first))
            if fitting > first:
                self._file.take(blocks, first, fitting)
                first = fitting
            if first < last or self._is_last_full():
                self._rotate()
        return first

    def tick(self) -> None:
        """Begin the next file if this one's time is over."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._file.packets:
            self._rotate()
        else:
            self._deadline = self._next_deadline()

    def finish(self, ledger: Ledger) -> None:
        """Finish the current file; the ledger is the descriptor's at the end."""
        if not self.finished:
            self._file.finish(ledger)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    # ---- one file after the other -------------------------------------------------------------------------------

    def _fitting(self, blocks: Blocks, first: int) -> int:
        """For how many packets, from number `first` on, this file has room."""
        fitting = blocks.packets
        if self._limits.size is not None:
            room = self._limits.size - self._file.size - self._file.closing_size
            fitting = max(blocks.fitting(first, max(room, 0)), 0 if self._file.packets else 1)
        if self._limits.packets is not None:
            fitting = min(fitting, self._limits.packets - self._file.packets)
        return fitting

    def _is_last_full(self) -> bool:
        """Whether this is the last file, and it has as many packets as it may have."""
        return self._opened == self._limits.files and self._file.packets == self._limits.packets

    def _rotate(self) -> None:
        self._file.finish(self._reader.ledger())
        if self._opened == self._limits.files:
            self.finished = True
            self._deadline = None
        else:
            self._packets_before += self._file.packets
            self._file = self._open()

    def _open(self) -> Savefile:
        if self._keep is not None and len(self._kept) == self._keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._kept.popleft())
        name = next(self._names)
        file = self._open_file(name)
        self._told(name)
        self._kept.append(name)
        if self._keep is None:
            self._kept.clear()
        self._opened += 1
        self._deadline = self._next_deadline()
        return file

    def _next_deadline(self) -> float | None:
        waits = []
        if self._limits.seconds is not None:
            waits.append(self._limits.seconds)
        if self._limits.interval is not None:
            waits.append(self._limits.interval - time.time() % self._limits.interval)
        return time.monotonic() + min(waits) if waits else None


# ---- names ----------------------------------------------------------------------------------------------------------


def dated_names(pattern: str | Callable[[], str]) -> Iterator[str]:
    """The names of tcpdump -G: a pattern for strftime(3), and a number if the name before was the same."""
    last, repeated = "", 0
    while True:
        name = time.strftime(pattern) if isinstance(pattern, str) else pattern()
        repeated = repeated + 1 if name == last else 0
        last = name
        yield f"{name}{repeated}" if repeated else name


def numbered_names(path: str, files: int | None) -> Iterator[str]:
    """The names of tcpdump -C: a number follows the path from the second file on.

    In a ring of `files`, all have a number, with leading zeros, and numbers come again; a ring of one file has none.
    """
    if files is None:
        yield from dated_names(lambda: path)
    elif files == 1:
        yield from itertools.repeat(path)
    else:
        digits = len(str(files - 1))
        yield from (f"{path}{number % files:0{digits}}" for number in itertools.count())


def ring_names(path: str) -> Iterator[str]:
    """The names of dumpcap -b: a number and the date before the suffix."""
    stem, suffix = os.path.splitext(path)
    number = 0
    while True:
        number = number % 99999 + 1
        yield f"{stem}_{number:05}_{time.strftime('%Y%m%d%H%M%S')}{suffix}"
