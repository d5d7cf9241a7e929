"""A series of capture files: when a file ends, what the next one is called, and which files are kept."""

import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.periods import Clock, Durations, Periods, Rotations
from zbuf.consumer.tools.dump.savefile import Savefile
from zbuf.shared.control.statistics import Ledger

Names = Callable[[float], str]
"""The name of the next file, from the time that it is named for, in seconds since 1970."""


@dataclass(frozen=True)
class FileLimits:
    """When a file ends and the next one begins; None for no limit."""

    size: int | None = None
    """Bytes of a file, before compression; a file has at least one packet, even if that is larger."""
    packets: int | None = None
    period: float | None = None
    """A file ends when a period of so many seconds is over, counted from the beginning of the dump."""
    seconds: float | None = None
    """A file ends so many seconds after it began."""
    interval: float | None = None
    """A file ends when the time of day is a multiple of so many seconds."""
    files: int | None = None
    """The dump ends after so many files. A period in which no packet came counts as one."""

    def periods(self, clock: Clock) -> Periods:
        """The time that files have."""
        if self.period is not None:
            return Rotations(clock, self.period, self.files)
        return Durations(clock, self.seconds, self.interval)


class Savefiles:
    """Capture files, one after the other: each packet is in one file, and packets stay in order.

    A file is over when its time is, whether packets come or not. A file without packets is removed then, so that only
    the last file can be empty.

    Args:
        reader: the reader whose packets the files hold.
        open_file: makes the file of a name.
        names: the names of the files.
        limits: when each file ends.
        keep: how many files to keep: the oldest is removed when one more begins; None to keep all.
        told: called with the name of each new file.
        ended: called with the name of each file that is whole.
        clock: what time it is.
    """

    def __init__(
        self,
        reader: Reader,
        open_file: Callable[[str], Savefile],
        names: Names,
        limits: FileLimits,
        keep: int | None = None,
        told: Callable[[str], object] = str,
        ended: Callable[[str], object] = str,
        clock: Clock = time,
    ) -> None:
        self.finished = False
        """Whether the last file is full."""
        self._reader = reader
        self._open_file = open_file
        self._names = names
        self._limits = limits
        self._keep = keep
        self._told = told
        self._ended = ended
        self._clock = clock
        self._kept: deque[str] = deque()
        self._number = 1  # of the file, and of the periods that left none
        self._packets_before = 0
        self._periods = limits.periods(clock)
        self._file = self._open()

    @property
    def packets(self) -> int:
        """How many packets were written to all files, with those that were removed."""
        return self._packets_before + self._file.packets

    @property
    def deadline(self) -> float | None:
        """When tick() has something to do, in seconds of time.monotonic()."""
        return None if self.finished else self._periods.deadline

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
                self._go_on(1)
        return first

    def tick(self) -> None:
        """Begin the next file if this one's time is over."""
        if self.deadline is None or self._clock.monotonic() < self.deadline:
            return
        self._go_on(self._periods.advance())

    def finish(self, ledger: Ledger) -> None:
        """Finish the current file; the ledger is the descriptor's at the end."""
        if not self.finished:
            self._finish_file(ledger)

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    # ---- one file after the other -------------------------------------------------------------------------------

    def _fitting(self, blocks: Blocks, first: int) -> int:
        """For how many packets, from number `first` on, this file has room."""
        fitting = blocks.packets
        if self._limits.size is not None:
            room = self._limits.size - self._file.size - self._file.closing_size
            fitting = max(self._file.part(blocks).fitting(first, max(room, 0)), 0 if self._file.packets else 1)
        if self._limits.packets is not None:
            fitting = min(fitting, self._limits.packets - self._file.packets)
        return fitting

    def _is_last_full(self) -> bool:
        """Whether this is the last file, and it has as many packets as it may have."""
        return self._is_last() and self._file.packets == self._limits.packets

    def _is_last(self) -> bool:
        return self._limits.files is not None and self._number >= self._limits.files

    def _go_on(self, count: int) -> None:
        """Go on with the file whose number is larger by `count`, or end after the last one."""
        self._number += count - 1
        if self._is_last():
            self._finish_file(self._reader.ledger())
            self.finished = True
            return
        self._number += 1
        if self._file.packets:
            self._finish_file(self._reader.ledger())
            self._packets_before += self._file.packets
        else:
            self._file.discard()
            if self._kept:
                self._kept.pop()
        self._file = self._open()

    def _finish_file(self, ledger: Ledger) -> None:
        self._file.finish(ledger)
        self._ended(self._file.path)

    def _open(self) -> Savefile:
        if self._keep is not None and len(self._kept) == self._keep:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._kept.popleft())
        name = self._names(self._periods.named_at)
        file = self._open_file(name)
        self._told(name)
        if self._keep is not None:
            self._kept.append(name)
        self._periods.begin_file()
        return file


# ---- names ----------------------------------------------------------------------------------------------------------


def one_name(path: str) -> Names:
    """The same name each time."""
    return lambda _: path


def dated_names(pattern: str) -> Names:
    """The names of tcpdump -G: a pattern for strftime(3), and a number if the name before was the same."""
    last, repeated = "", 0

    def name(at: float) -> str:
        nonlocal last, repeated
        dated = time.strftime(pattern, time.localtime(at))
        repeated = repeated + 1 if dated == last else 0
        last = dated
        return f"{dated}{repeated}" if repeated else dated

    return name


def numbered_names(path: str, files: int | None) -> Names:
    """The names of tcpdump -C: a number follows the path from the second file on.

    In a ring of `files`, all have a number, with leading zeros, and numbers come again; a ring of one file has none.
    """
    numbers = itertools.count()
    if files is None:
        return lambda _: f"{path}{next(numbers) or ''}"
    if files == 1:
        return one_name(path)
    digits = len(str(files - 1))
    return lambda _: f"{path}{next(numbers) % files:0{digits}}"


def ring_names(path: str) -> Names:
    """The names of dumpcap -b: a number and the date before the suffix."""
    stem, suffix = os.path.splitext(path)
    numbers = itertools.cycle(range(1, 100_000))
    return lambda at: f"{stem}_{next(numbers):05}_{time.strftime('%Y%m%d%H%M%S', time.localtime(at))}{suffix}"
