"""The search for the throughput: the fastest rate at which nothing is lost (RFC 1242 3.17, RFC 2544 26.1).

What a device under test is to RFC 2544, a consumer is here: trials of some seconds each, at one rate each, the next
rate chosen by how the last ones went.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_SLOWEST = 1.0


@dataclass(frozen=True)
class Trial:
    """What became of packets that were offered at one rate."""

    asked: float | None
    """Packets per second; None for as fast as it goes."""
    packets: int
    """Offered."""
    wire_bytes: int
    """Theirs, on the wire."""
    seconds: float
    """From the first to the last."""
    dropped: int
    """For want of a buffer; the sum over all descriptors, as is `behind`."""
    behind: int
    """Packets that had not been taken in time when the trial was over, though there was room for them."""
    drained_s: float
    """How long the consumer took, after the last packet was offered, to acknowledge it."""
    lag_us: dict[str, float]
    """How late packets were offered: p50, p99, max, in microseconds; empty where none were due."""
    latency_us: dict[str, float]
    """What a measuring reader saw; empty where there was none."""
    descriptors: int = 1
    """Of the consumers; each of them was offered all packets."""

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
        """Dropped, or not taken in time."""
        return self.dropped + self.behind

    @property
    def lost_share(self) -> float:
        """The lost ones among all that were offered to the descriptors, from 0 to 1: RFC 2544's frame loss rate."""
        return self.lost / max(self.packets * self.descriptors, 1)

    @property
    def taken_rate(self) -> float:
        """Packets per second that a consumer took, in the mean."""
        seconds = self.seconds + self.drained_s
        return (self.packets - self.dropped / self.descriptors) / seconds if seconds else 0.0

    @property
    def passed(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost

    def held(self, precision: float) -> bool:
        """Whether the producer offered what was asked, within `precision`, a share of it."""
        return self.asked is not None and self.rate >= self.asked * (1 - precision)


def find_throughput(run: Callable[[float | None], Trial], precision: float, tries: int = 1) -> list[Trial]:
    """Run trials until the throughput is known within `precision`, a share of it.

    The first is at top speed. Where that loses nothing, no other is needed: the consumer is faster than the producer.
    Else what the consumer took then is the first guess, and the middle between the slowest rate that lost something
    and the fastest that lost nothing the next one, by their ratio.

    Args:
        run: a trial at a rate, in packets per second, or at top speed.
        precision: from 0 to 1.
        tries: a rate is lost when so many trials of it, one after the other, lose something: machines have hiccups. As
            often the producer may fail to offer it.

    Returns:
        All trials in order; throughput() tells what came of them.
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
        elif not trials[-1].held(precision):  # the producer itself can't keep up with more
            break
        else:
            low = guess
        guess = math.sqrt(low * high) if low else high / 2
    return trials


def throughput(trials: list[Trial]) -> Trial | None:
    """The fastest trial that lost nothing; None where all did."""
    return max((trial for trial in trials if trial.passed), key=lambda trial: trial.rate, default=None)
