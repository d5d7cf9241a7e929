"""What zbuf measure counts: how long packets take from their time stamp to this process.

A packet's latency is CLOCK_REALTIME at the moment that its buffer was taken, minus the packet's time: the kernel's for
a live packet, the producer's for an appended one. Latencies are counted with three significant digits, from a
nanosecond to an hour.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy
from numpy.typing import NDArray

from zbuf.consumer.reading.buffer import Buffer
from zbuf.consumer.reading.reader import Reader
from zbuf.shared.cli.process import on_end
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.errors import ZbufError
from zbuf.shared.histogram import Histogram

LEAST_NS = 1
MOST_NS = 3_600_000_000_000

_LOOK_S = 0.1
"""The longest wait, in seconds: a reader that spins notices signals only between two waits."""

_UNITS_NS = (("days", 86_400_000_000_000), ("hours", 3_600_000_000_000), ("minutes", 60_000_000_000))

EndedBy = Literal["count", "duration", "signal", "closed", "moved", "producer died", "evicted", "left"]


class Latencies:
    """A histogram of latencies, their sum, and how many were below zero."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self._sum_ns = 0
        self.later_than_now = 0
        """How many packets had a time later than that of their arrival."""

    def add(self, latencies_ns: NDArray[numpy.int64]) -> None:
        """Count more latencies; one that is out of range counts as the nearest in range."""
        inside = latencies_ns.clip(LEAST_NS, MOST_NS)
        self.histogram.add(inside)
        self._sum_ns += int(inside.sum())
        self.later_than_now += int(numpy.count_nonzero(latencies_ns < 0))

    @property
    def packets(self) -> int:
        """How many latencies were counted."""
        return self.histogram.total

    @property
    def mean_ns(self) -> float:
        """The exact mean of the latencies in range, in nanoseconds."""
        return self._sum_ns / self.packets


@dataclass(frozen=True)
class Measured:
    """The outcome of a measurement."""

    latencies: Latencies
    seconds: float
    """How long it lasted."""
    captured_bytes: int
    lost: int
    """Packets that were lost before the measured ones, as the buffers tell."""
    ledger: Ledger
    """The descriptor's ledger at its last rotation or drop."""
    ended_by: EndedBy

    @property
    def packets(self) -> int:
        """How many packets were measured."""
        return self.latencies.packets


class Measuring:
    """Takes a reader's packets and counts their latencies, until there are enough or the time is over.

    The first SIGINT or SIGTERM, which the constructor handles, ends it in good order.

    Args:
        reader: the reader.
        count: end after so many packets; None for no end.
        duration_s: end after this time.
    """

    def __init__(self, reader: Reader, count: int | None, duration_s: float) -> None:
        self._reader = reader
        self._count = count
        self._duration_s = duration_s
        self._latencies = Latencies()
        self._captured_bytes = self._lost = 0
        self._stopped = False
        on_end(self._stop)

    @property
    def packets(self) -> int:
        """How many packets were measured so far."""
        return self._latencies.packets

    def run(self) -> Measured:
        """Measure, and return the outcome.

        Raises:
            ZbufError: the packets have the times of an old file.
        """
        began = time.monotonic()
        while (ended_by := self._ended(left_s := began + self._duration_s - time.monotonic())) is None:
            buffer = self._reader.next_buffer(min(left_s, _LOOK_S))
            now_ns = time.time_ns()
            if buffer is not None:
                self._take(buffer, now_ns)
        seconds = time.monotonic() - began
        ledger = self._reader.ledger()
        return Measured(self._latencies, seconds, self._captured_bytes, self._lost, ledger, ended_by)

    def _ended(self, left_s: float) -> EndedBy | None:
        if self._count is not None and self.packets >= self._count:
            return "count"
        if self._reader.end_reason is not None:
            return self._reader.end_reason
        if self._stopped:
            return "signal"
        return "duration" if left_s <= 0 else None

    def _take(self, buffer: Buffer, now_ns: int) -> None:
        left = None if self._count is None else self._count - self.packets
        index = buffer.index()[:left]
        if not self.packets and len(index):
            _check_fresh(self._reader.name, now_ns - int(index["time_ns"][0]))
        self._latencies.add(now_ns - index["time_ns"].astype(numpy.int64))
        self._captured_bytes += int(index["caplen"].sum())
        self._lost += buffer.dropped_before

    def _stop(self) -> None:
        self._stopped = True
        self._reader.interrupt()


def _check_fresh(name: str, age_ns: int) -> None:
    if abs(age_ns) > MOST_NS:
        raise ZbufError(
            f"packets of {name!r} have the times of a file (the first is {_in_words(age_ns)}): "
            "measure a live capture, or a producer that stamps what it appends"
        )


def _in_words(age_ns: int) -> str:
    amount, unit = next((abs(age_ns) // length, unit) for unit, length in _UNITS_NS if abs(age_ns) >= 2 * length)
    return f"{amount} {unit} {'old' if age_ns > 0 else 'ahead'}"
