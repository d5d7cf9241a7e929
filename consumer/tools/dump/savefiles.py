"""A series of capture files: when one ends, what the next is called, which of them stay."""

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
    """Where a file ends, and the next begins; None for no limit."""

    size: int | None = None
    """Its bytes, before compression. A file has a packet at least, however small this is."""
    packets: int | None = None
    seconds: float | None = None
    interval: float | None = None
    """It ends when the time of day is a multiple of so many seconds."""
    files: int | None = None
    """All ends after so many files."""


class Savefiles:
    """Capture files, one after the other: each packet is in one of them, and all are in order.

    The time of a file without packets is made longer, so that none stays empty but the last.

    Args:
        reader: whose packets they have.
        open_file: makes the file of that name.
        names: what they are called.
        limits: where each ends.
        keep: remove the oldest when there would be more than these; None to keep all.
        told: called with the name of each.
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
        """How many all of them have, those that were removed included."""
        return self._packets_before + self._file.packets

    @property
    def deadline(self) -> float | None:
        """When tick() has something to do, in seconds of time.monotonic()."""
        return self._deadline

    def take(self, blocks: Blocks, last: int) -> int:
        """Write the packets before number `last`; returns how many were written: less, where the last file is full."""
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
        """Begin the next file where this one's time is over."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        if self._file.packets:
            self._rotate()
        else:
            self._deadline = self._next_deadline()

    def finish(self, ledger: Ledger) -> None:
        """Finish the file that is being written; the ledger is the descriptor's as of the end."""
        if not self.finished:
            self._file.finish(ledger)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    # ---- one file after the other -------------------------------------------------------------------------------

    def _fitting(self, blocks: Blocks, first: int) -> int:
        """How many packets from number `first` on this file has room for."""
        fitting = blocks.packets
        if self._limits.size is not None:
            room = self._limits.size - self._file.size - self._file.closing_size
            fitting = max(blocks.fitting(first, max(room, 0)), 0 if self._file.packets else 1)
        if self._limits.packets is not None:
            fitting = min(fitting, self._limits.packets - self._file.packets)
        return fitting

    def _is_last_full(self) -> bool:
        """Whether there will be no other file, and this one takes no packet more, however small."""
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
    """tcpdump's: the pattern for strftime(3); a number after a name that is the same as the one before."""
    last, repeated = "", 0
    while True:
        name = time.strftime(pattern) if isinstance(pattern, str) else pattern()
        repeated = repeated + 1 if name == last else 0
        last = name
        yield f"{name}{repeated}" if repeated else name


def numbered_names(path: str, files: int | None) -> Iterator[str]:
    """Tcpdump's for -C: with a number from the second file on; of a ring of `files`, with zeros before, and again.

    A ring of one file has no number.
    """
    if files is None:
        yield from dated_names(lambda: path)
    elif files == 1:
        yield from itertools.repeat(path)
    else:
        digits = len(str(files - 1))
        yield from (f"{path}{number % files:0{digits}}" for number in itertools.count())


def ring_names(path: str) -> Iterator[str]:
    """dumpcap's: number and date before the suffix."""
    stem, suffix = os.path.splitext(path)
    number = 0
    while True:
        number = number % 99999 + 1
        yield f"{stem}_{number:05}_{time.strftime('%Y%m%d%H%M%S')}{suffix}"
