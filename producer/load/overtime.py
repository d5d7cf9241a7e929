"""Rate, drops and lag over the time of a replay: a list of intervals, and a sparkline of each."""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 60
"""Bars in a line."""


@dataclass(frozen=True)
class Counts:
    """What was counted from the beginning up to a moment."""

    offered: int
    dropped: int
    """On all descriptors together."""
    late: int
    lags: dict[int, int]
    """How many packets had a lag up to each bound in nanoseconds, and above the bound before."""


@dataclass(frozen=True)
class Interval:
    """What came to pass between two looks."""

    until_s: float
    """Its end, in seconds since the beginning."""
    seconds: float
    """How long it was."""
    offered: int
    dropped: int
    late: int
    lag_p99_us: float
    """The lag that 99 % of the packets did not exceed, within 3 %, in microseconds."""
    lag_max_us: float
    """The longest lag, within 3 %."""


def intervals(found: Sequence[tuple[float, Counts]]) -> list[Interval]:
    """Make an interval of each two samples that follow each other."""
    pairs = itertools.pairwise(found)
    return [_between(began, now, less, more, found[0][0]) for (began, less), (now, more) in pairs]


def _between(began: float, now: float, less: Counts, more: Counts, start: float) -> Interval:
    lags = [(bound, count - less.lags.get(bound, 0)) for bound, count in sorted(more.lags.items())]
    lags = [(bound, count) for bound, count in lags if count > 0]
    return Interval(
        until_s=round(now - start, 3),
        seconds=round(now - began, 3),
        offered=more.offered - less.offered,
        dropped=more.dropped - less.dropped,
        late=more.late - less.late,
        lag_p99_us=_percentile(lags, 0.99) / 1000,
        lag_max_us=lags[-1][0] / 1000 if lags else 0.0,
    )


def _percentile(lags: Sequence[tuple[int, int]], share: float) -> int:
    wanted, so_far = share * sum(count for _, count in lags), 0
    for bound, count in lags:
        so_far += count
        if so_far >= wanted:
            return bound
    return 0


def print_over_time(found: Sequence[Interval]) -> None:
    """Print a line of bars for packets, drops and lag, if there are two intervals or more."""
    if len(found) < 2:
        return
    sys.stdout.write(f"over {found[-1].until_s:,.0f} s, from left to right:\n")
    _print_bars("offered/s", [one.offered / one.seconds for one in found])
    _print_bars("dropped/s", [one.dropped / one.seconds for one in found])
    if any(one.lag_max_us for one in found):
        _print_bars("lag p99 µs", [one.lag_p99_us for one in found])


def _print_bars(name: str, values: Sequence[float]) -> None:
    sys.stdout.write(f"  {name:<10}  {sparkline(values)}  {min(values):,.0f} to {max(values):,.0f}\n")


def sparkline(values: Sequence[float]) -> str:
    """Draw values of 0 or more as bars, of which the highest is the largest value; neighbours are joined if many."""
    joined = -(-len(values) // _WIDEST)
    heights = [max(values[at : at + joined]) for at in range(0, len(values), joined)]
    highest = max(heights, default=0.0)
    return "".join(_BARS[round(height / highest * (len(_BARS) - 1)) if highest else 0] for height in heights)
