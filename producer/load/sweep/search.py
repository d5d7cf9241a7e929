"""The search for the throughput: the fastest rate at which nothing is lost (RFC 1242 3.17, RFC 2544 26.1).

The consumer is RFC 2544's device under test. A trial offers packets at one rate for some seconds; its outcome decides
the rate of the next trial.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_SLOWEST = 1.0


@dataclass(frozen=True)
class Trial:
    """What became of packets that were offered at one rate."""

    asked: float | None
    """Packets per second; None for top speed."""
    packets: int
    """Packets that were offered."""
    wire_bytes: int
    """The bytes of these packets on the wire."""
    seconds: float
    """From the first packet to the last."""
    dropped: int
    """Packets dropped because no buffer was free, on all descriptors together."""
    behind: int
    """Packets that had room in a buffer, but were not taken in time after the trial; on all descriptors together."""
    drained_s: float
    """How long after the last packet was offered the consumer had acknowledged it, in seconds."""
    lag_us: dict[str, float]
    """How late packets were offered: p50, p99, max, in microseconds; empty at top speed."""
    latency_us: dict[str, float]
    """Latency as a measuring reader saw it, in microseconds; empty if nothing measured it."""
    descriptors: int = 1
    """How many descriptors the consumers have; each was offered all packets."""

    @property
    def rate(self) -> float:
        """Packets per second that were offered."""
        return self.packets / self.seconds if self.seconds else 0.0

    @property
    def mbps(self) -> float:
        """Megabits per second on the wire that were offered."""
        return self.wire_bytes * 8e-6 / self.seconds if self.seconds else 0.0

    @property
    def lost(self) -> int:
        """Packets that were dropped, or not taken in time."""
        return self.dropped + self.behind

    @property
    def lost_share(self) -> float:
        """Which share of the packets was lost, from 0 to 1: RFC 2544's frame loss rate."""
        return self.lost / max(self.packets * self.descriptors, 1)

    @property
    def taken_rate(self) -> float:
        """Packets per second that a consumer took on average."""
        seconds = self.seconds + self.drained_s
        return (self.packets - self.dropped / self.descriptors) / seconds if seconds else 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost

    def held(self, precision: float) -> bool:
        """Whether the producer offered the rate that was asked, less at most the share `precision` of it."""
        return self.asked is not None and self.rate >= self.asked * (1 - precision)


def find_throughput(run: Callable[[float | None], Trial], precision: float, tries: int = 1) -> list[Trial]:
    """Run trials until the throughput is known within `precision`, a share of it.

    The first trial is at top speed. If it loses nothing, the search is over: the consumer is faster than the producer.
    If not, the next trial is at the rate at which the consumer took packets. From then on, each is at the geometric
    mean of the slowest rate that lost something and the fastest rate that lost nothing.

    Args:
        run: makes one trial, at a rate in packets per second, or at top speed for None.
        precision: from 0 to 1.
        tries: how many trials of one rate may lose something, or may fail to offer the rate, before the rate counts as
            too fast: machines have hiccups.

    Returns:
        All trials in order; throughput() finds the best.
    """
    trials = [run(None)]
    low, high = 0.0, trials[0].rate
    guess = min(trials[0].taken_rate, high * (1 - precision))
    while not trials[0].passed and guess >= _SLOWEST and (not low or high / low > 1 + precision):
        for _ in range(tries):
            trials.append(run(guess))
            if trials[-1].passed and trials[-1].held(precision):
                break
        if not trials[-1].passed:
            high = guess
        elif not trials[-1].held(precision):  # the producer can't offer more
            break
        else:
            low = guess
        guess = math.sqrt(low * high) if low else high / 2
    return trials


def throughput(trials: list[Trial]) -> Trial | None:
    """The fastest trial that lost nothing; None if every trial lost something."""
    return max((trial for trial in trials if trial.passed), key=lambda trial: trial.rate, default=None)
