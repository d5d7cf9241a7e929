"""The report at the end of a replay: which rate was asked, which was achieved, and what became of the packets."""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from zbuf import __version__
from zbuf.producer.load.checks import Check
from zbuf.producer.load.overtime import Interval, print_over_time
from zbuf.producer.load.processes import Process, print_processes
from zbuf.producer.load.schedule import Schedule
from zbuf.producer.sources.files.file_source import Sizes
from zbuf.producer.sources.pace import Pace
from zbuf.shared.cli.machine import Facts
from zbuf.shared.cli.tables import print_ledgers, print_table
from zbuf.shared.control.statistics import Statistics

HELD_WITHIN = 0.001
"""A rate is held if the mean rate differs from it by at most this share..."""
LATE_AT_MOST = 0.01
"""...and if at most this share of the packets were late."""


@dataclass(frozen=True)
class Pacing:
    """How well a schedule was kept."""

    asked: str
    """Such as "200,000 packets/s"."""
    achieved_pps: float
    achieved_mbps: float
    deviation: float | None
    """Achieved rate / asked rate - 1; None if no rate was asked, or none that can be compared."""
    lag_us: dict[str, float]
    """How late packets were offered: p50, p99, max, in microseconds."""
    max_lag_ms: float
    """A packet with a longer lag is late."""
    behind: int
    """Late packets."""
    late_share: float
    """Late packets, as a share of all."""
    reason: str | None
    """Why the rate was not held; None if it was held."""

    @property
    def held(self) -> bool | None:
        """Whether the rate was held, on average and packet by packet; None if `deviation` is None."""
        if self.deviation is None:
            return None
        return abs(self.deviation) <= HELD_WITHIN and self.late_share <= LATE_AT_MOST


def pacing_of(schedule: Schedule, pace: Pace, waits: int) -> Pacing:
    """Say how well a schedule was kept, after the replay.

    Args:
        schedule: what was asked.
        pace: the pace that was made from it, and has run.
        waits: how often the pump slept to wait for readers.
    """
    share = pace.pace
    lag_us = {"p50": pace.lag_ns(0.5) / 1000, "p99": pace.lag_ns(0.99) / 1000, "max": pace.max_lag_ns / 1000}
    pacing = Pacing(
        asked=str(schedule),
        achieved_pps=pace.packets_per_second,
        achieved_mbps=pace.wire_bytes * 8e-6 / pace.seconds if pace.seconds else 0.0,
        deviation=None if share is None else share - 1,
        lag_us=lag_us if pace.timed else {},
        max_lag_ms=schedule.max_lag_ms,
        behind=pace.behind,
        late_share=pace.behind / max(pace.packets, 1),
        reason=None,
    )
    return replace(pacing, reason=_reason(pacing, pace, waits)) if pacing.held is False else pacing


def _reason(one: Pacing, pace: Pace, waits: int) -> str:
    latest_us = one.lag_us.get("max", 0.0)
    late = (
        f"{100 * one.late_share:.3g} % of the packets were over {one.max_lag_ms:g} ms late, "
        f"{latest_us / 1000:,.1f} ms at most"
    )
    if waits:
        return f"{late}: readers held it up, it waited {waits:,} times for them (without --lossless it would not)"
    if one.behind:
        return f"{late}: this machine did not keep up"
    if pace.missed_ns:
        return f"this machine did not keep up: the packets of the last {pace.missed_ns / 1e6:,.1f} ms were not offered"
    return (
        f"the replay was so short that a lag of {latest_us:,.1f} µs is more than 0.1 % of it: give --duration or --loop"
    )


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was offered, how fast, and what became of the packets."""

    command: str
    """The command line, quoted for a shell."""
    files: list[str]
    began: str
    """When the replay began, in ISO 8601."""
    packets: int
    """Packets offered to the descriptors."""
    seconds: float
    """From the first packet to the last."""
    statistics: Statistics
    """The producer's statistics at the end."""
    warnings: list[str]
    """What there is to say of the files, their damage included."""
    damage: list[str]
    """What is damaged in the files."""
    pacing: Pacing | None
    """How the schedule was kept; None at top speed."""
    sizes: Sizes | None
    """The sizes of the files' packets; None if they are not known."""
    latency_us: dict[str, float]
    """Latency as a measuring reader saw it, in microseconds; empty if nothing measured it."""
    machine: Facts
    lags: list[tuple[int, int]]
    """A histogram of lags: an upper bound in nanoseconds, and the packets between the last bound and this one."""
    rates: list[tuple[float, float]]
    """Seconds since the beginning, and packets offered per second then; empty if they were not asked for."""
    over_time: list[Interval]
    """Rate, drops and lag, second by second."""
    processes: dict[int, list[Process]]
    """The readers that were seen on each descriptor."""
    not_under_test: frozenset[int] = frozenset()
    """Descriptors of zbuf's own that measure."""

    @property
    def packets_per_second(self) -> float:
        """The rate at which packets were offered."""
        if self.pacing is not None:
            return self.pacing.achieved_pps
        return self.packets / self.seconds if self.seconds else 0.0

    @property
    def lost(self) -> int:
        """Packets that passed a reader's filter, and that the reader did not acknowledge by the end."""
        theirs = (one for one in self.statistics.descriptors if one.descriptor not in self.not_under_test)
        return sum(one.dropped + one.abandoned + one.buffered for one in theirs)

    def checks(self, *, fail_if_lost: bool, fail_if_late: bool) -> list[Check]:
        """What a replay can fail by; the checks that were not asked for are told, too."""
        nobody = not any(one.descriptor not in self.not_under_test for one in self.statistics.descriptors)
        loss = "no reader was connected" if nobody else f"{self.lost:,} packets were lost" if self.lost else None
        return [
            Check("input", "the files are whole", "; ".join(self.damage) or None),
            Check("loss", "nothing is lost", loss, None if fail_if_lost else "--fail-if-lost"),
            Check(
                "rate",
                "the rate is held",
                None if self.pacing is None else self.pacing.reason,
                None if fail_if_late else "--max-lag",
            ),
        ]

    def as_json(self) -> str:
        """The report as one JSON object."""
        body: dict[str, Any] = {
            "report": "replay",
            "producer": self.statistics.producer,
            "command": self.command,
            "version": __version__,
            "began": self.began,
            "files": self.files,
            "packets": self.packets,
            "seconds": self.seconds,
            "packets_per_second": self.packets_per_second,
            "pacing": None if self.pacing is None else asdict(self.pacing) | {"held": self.pacing.held},
            "latency_us": self.latency_us,
            "lost": self.lost,
            "over_time": [asdict(one) for one in self.over_time],
            "processes": {number: [asdict(process) for process in found] for number, found in self.processes.items()},
            "waits": self.statistics.waits,
            "warnings": self.warnings,
            "descriptors": msgspec.to_builtins(self.statistics.descriptors),
            "sizes": None if self.sizes is None else self.sizes.named() | {"wire_bytes": self.sizes.wire_bytes},
            "machine": self.machine,
        }
        return json.dumps(body, indent=2)

    def print(self) -> None:
        """Print the report for people on stdout."""
        if self.pacing is not None and self.pacing.reason is not None:
            sys.stdout.write(f"not held: {self.pacing.reason}\n")
        rate = f"{self.packets_per_second:,.0f} packets/s"
        sys.stdout.write(f"{self.packets:,} packets offered in {self.seconds:.3f} s: {rate}\n")
        if self.pacing is not None:
            _print_pacing(self.pacing)
        if self.latency_us:
            print_table("", ["latency µs", *self.latency_us], [["", *self.latency_us.values()]])
        print_over_time(self.over_time)
        if self.statistics.descriptors:
            print_ledgers(self.statistics.descriptors)
            print_processes(self.processes)
        else:
            sys.stdout.write("no reader was connected\n")


def _print_pacing(one: Pacing) -> None:
    deviation = "-" if one.deviation is None else f"{100 * one.deviation:+.4f} %"
    lags = [f"{one.lag_us[name]:,.1f}" if name in one.lag_us else "-" for name in ("p50", "p99", "max")]
    print_table(
        "",
        ["asked", "achieved packets/s", "Mbit/s", "deviation", "lag p50 µs", "p99 µs", "max µs", "late"],
        [[one.asked, f"{one.achieved_pps:,.1f}", f"{one.achieved_mbps:,.1f}", deviation, *lags, f"{one.behind:,}"]],
    )
