"""A trial: what became of packets that were offered at one rate."""

from dataclasses import dataclass

LATE_AT_MOST = 0.01
"""The share of packets that may be late in a trial whose losses count."""


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
    late: int = 0
    """Packets that were offered later than --max-lag."""
    blind_share: float = 0.0
    """A consumer that is slower than the rate by less than this share of it loses nothing in so short a trial."""

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

    @property
    def punctual(self) -> bool:
        """Whether the producer offered packets when they were due, at most a hundredth of them excepted."""
        return self.late <= LATE_AT_MOST * self.packets

    def held(self, precision: float) -> bool:
        """Whether the producer offered the rate that was asked, less at most the share `precision` of it."""
        return self.asked is not None and self.rate >= self.asked * (1 - precision)

    def is_void(self, precision: float, tolerated: float = 0.0) -> bool:
        """Whether the trial says nothing of its rate: the producer offered less, or was late and packets were lost.

        Late packets come in bursts, which are harder to take; so a trial that lost nothing counts all the same.
        """
        return not self.held(precision) or (self.lost_share > tolerated and not self.punctual)
