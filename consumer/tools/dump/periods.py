"""When a capture file's time is over, and what time it is named for.

Sources: tcpdump(1) for -G; dumpcap(1) for -b duration: and -b interval:.
"""

from typing import Protocol


class Clock(Protocol):
    """The two clocks of the module time."""

    def time(self) -> float:
        """Seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds since some moment; nobody sets this clock."""


class Periods(Protocol):
    """The time that files have."""

    @property
    def named_at(self) -> float:
        """The time that a file is named for which begins now, in seconds since 1970."""

    @property
    def deadline(self) -> float | None:
        """When the period is over, in seconds of the clock's monotonic(); None for never."""

    def begin_file(self) -> None:
        """Note that a file begins now."""

    def advance(self) -> int:
        """Begin the next period, after the deadline; returns how many are over since the last one began."""


class Durations:
    """dumpcap's: a file has so many seconds from its own beginning, or until the time of day is a multiple of some.

    Args:
        clock: what time it is.
        seconds: how long a file lasts; None for no limit.
        interval: a file ends when the time of day is a multiple of so many seconds; None for no such end.
    """

    def __init__(self, clock: Clock, seconds: float | None = None, interval: float | None = None) -> None:
        self._clock = clock
        self._seconds = seconds
        self._interval = interval
        self.deadline: float | None = None
        self.begin_file()

    @property
    def named_at(self) -> float:
        """Now."""
        return self._clock.time()

    def begin_file(self) -> None:
        """Set the deadline of this file."""
        waits = [] if self._seconds is None else [self._seconds]
        if self._interval is not None:
            waits.append(self._interval - self._clock.time() % self._interval)
        self.deadline = self._clock.monotonic() + min(waits) if waits else None

    def advance(self) -> int:
        """A file that is late, because this process was stopped, lasted for one period."""
        self.begin_file()
        return 1


class Rotations:
    """tcpdump -G's: periods of equal length, of whole seconds of the clock, one after the other without a gap.

    The last one ends so many times `seconds` after the first one began, to the fraction of a second.

    Args:
        clock: what time it is.
        seconds: how long a period is.
        count: how many there are; None for no end.
    """

    def __init__(self, clock: Clock, seconds: float, count: int | None = None) -> None:
        self._clock = clock
        self._seconds = seconds
        self._count = count
        self._began = clock.time()
        self._number = 0

    @property
    def named_at(self) -> float:
        """When the period began."""
        return self._began // 1 + self._number * self._seconds

    @property
    def deadline(self) -> float:
        """The beginning of the next period."""
        number = self._number + 1
        began = self._began if number == self._count else self._began // 1
        return self._clock.monotonic() + began + number * self._seconds - self._clock.time()

    def begin_file(self) -> None:
        """Files of one period, as -C makes them, share its deadline."""

    def advance(self) -> int:
        """Go on with the period that the clock is in."""
        before = self._number
        self._number = max(before + 1, int((self._clock.time() - self._began // 1) // self._seconds))
        return self._number - before
