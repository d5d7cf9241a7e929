"""Rounds, medians, spread.

The contestants of a measure take turns: each round runs each of them once, and every round begins with another one. A
round's ratio compares runs that are seconds apart, so what slows a shared machine for a minute slows both. The result
is the median of those ratios, with the smallest and the largest beside it.

If other processes keep the processors busy, or a virtual machine's processors have moved apart, there are more rounds.
Then the rounds under the best conditions count. They are chosen by the conditions alone, never by their outcome, and
all of them are in the JSON file.
"""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

from bench.captures import Capture
from bench.machine import CacheLine, Crowd

_QUIET = 0.1
"""A share of the processors' time that other processes may take without harm."""

_NEAR = 1.5
"""Processors are near if a cache line takes at most so many times as long as at best."""

Rate = Callable[[], float]
"""Runs a contestant once, in processes of its own; returns its packets per second."""

Outcome = TypeVar("Outcome")
"""The result of one run of a contestant."""

Point = TypeVar("Point")
"""What the runs of a series differ in."""


@dataclass(frozen=True)
class Peer:
    """A program or library that zbuf is compared with."""

    name: str
    run: Rate
    target: float | None = None
    """The ratio that zbuf aims at; None if the peer is there for information."""
    missing: str = ""
    """Why it can't be run here, and what to do; empty if it can."""
    packet_bytes: int = 0
    """The size of each packet, if rates are to be told in bytes."""


@dataclass(frozen=True)
class Round(Generic[Outcome]):
    """One round: each contestant ran once."""

    outcomes: Mapping[str, Outcome]
    """The outcome of each contestant; packets per second, if they are compared by that."""
    crowd: float
    """The share of the processors' time that others took from it."""
    cache_line_ns: float
    """How long a cache line took to another processor and back, just before."""


@dataclass(frozen=True)
class Row:
    """A line of the table, and of the JSON file."""

    measure: str
    zbuf: str = ""
    peer: str = ""
    ratio: str = ""
    spread: str = ""
    target: str = ""
    met: bool | None = None
    conditions: str = ""
    """The conditions of the rounds that count."""
    data: Mapping[str, object] = field(default_factory=dict)
    """Everything that was measured."""

    def compared(self, ratios: Sequence[float], target: float | None) -> Self:
        """This row with the ratios of its rounds: their median, which should reach the target, and their spread."""
        ratio = statistics.median(ratios)
        return dataclasses.replace(
            self,
            ratio=f"{ratio:.2f}",
            spread=f"{min(ratios):.2f}..{max(ratios):.2f}",
            target="" if target is None else f"≥ {target:g}",
            met=None if target is None else ratio >= target,
            data={**self.data, "ratio": ratio, "ratios": list(ratios), "target": target},
        )


@dataclass(frozen=True)
class Session:
    """One call of the benchmark."""

    capture: Capture
    """The capture to read, unless a measure makes its own."""
    cache_line: CacheLine
    progress: Callable[[str], None]
    """Called with what runs."""
    rounds: int
    """How many rounds count."""
    most_rounds: int
    """How many rounds there are at most."""
    shorten: int
    """By how much to divide the length of the runs."""

    def scaled(self, packets: int) -> int:
        """How many packets a run handles that would handle so many if it were not shortened."""
        return packets // self.shorten

    def selected(self, points: Sequence[Point]) -> Sequence[Point]:
        """Which of the points of a series are measured: all of them, unless the runs are shortened."""
        return points[:: self.shorten]

    def compete(self, name: str, zbuf: Rate, peers: Sequence[Peer]) -> list[Row]:
        """Run zbuf and its peers in turn; returns a row for each peer."""
        contestants = {"zbuf": zbuf} | {peer.name: peer.run for peer in peers if not peer.missing}
        counted, rounds = self.take_turns(name, contestants, lambda one: 2 if one == "zbuf" else 1)
        return [_row(name, counted, peer, rounds) for peer in peers]

    def take_turns(
        self, name: str, contestants: Mapping[str, Callable[[], Outcome]], processors: Callable[[str], int]
    ) -> tuple[list[Round[Outcome]], list[Round[Outcome]]]:
        """Run contestants in turn; returns the rounds that count, and all.

        Args:
            name: of the measure.
            contestants: what runs each of them once, by name.
            processors: how many processors a contestant keeps busy.
        """
        rounds: list[Round[Outcome]] = []
        while len(rounds) < self.most_rounds and sum(map(self._is_good, rounds)) < self.rounds:
            rounds.append(self._round(name, contestants, processors, len(rounds)))
        counted = sorted(rounds, key=lambda one: (not self._is_near(one), one.crowd))[: self.rounds]
        return counted, rounds

    def _round(
        self,
        name: str,
        contestants: Mapping[str, Callable[[], Outcome]],
        processors: Callable[[str], int],
        number: int,
    ) -> Round[Outcome]:
        outcomes, crowds = {}, []
        cache_line_ns = self.cache_line.nanoseconds()
        for contestant in _rotated(list(contestants), number):
            self.progress(f"{name}: round {number + 1}, {contestant}")
            with Crowd(processors(contestant)) as crowd:
                outcomes[contestant] = contestants[contestant]()
            crowds.append(crowd.share)
        return Round(outcomes, max(crowds), cache_line_ns)

    def _is_near(self, one: Round[Outcome]) -> bool:
        return one.cache_line_ns <= _NEAR * self.cache_line.nearest_ns

    def _is_good(self, one: Round[Outcome]) -> bool:
        return one.crowd <= _QUIET and self._is_near(one)


def _rotated(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _row(name: str, counted: Sequence[Round[float]], peer: Peer, rounds: Sequence[Round[float]]) -> Row:
    row = Row(
        name,
        _median_in_words(counted, "zbuf", peer.packet_bytes),
        f"{peer.name} {peer.missing}",
        target="" if peer.target is None else f"≥ {peer.target:g}",
        conditions=conditions(counted),
        data={"peer": peer.name, "target": peer.target, "rounds": [dataclasses.asdict(one) for one in rounds]},
    )
    return row if peer.missing else _compared(row, counted, peer)


def conditions(rounds: Sequence[Round[Outcome]]) -> str:
    """The conditions of rounds, in words."""
    cache_line_ns = statistics.median(one.cache_line_ns for one in rounds)
    crowd = statistics.median(one.crowd for one in rounds)
    return f"{cache_line_ns:.0f} ns, {crowd:.0%}" if cache_line_ns else f"{crowd:.0%}"


def _compared(row: Row, rounds: Sequence[Round[float]], peer: Peer) -> Row:
    ratios = [one.outcomes["zbuf"] / one.outcomes[peer.name] for one in rounds]
    words = f"{peer.name} {_median_in_words(rounds, peer.name, peer.packet_bytes)}"
    return dataclasses.replace(row, peer=words).compared(ratios, peer.target)


def _median_in_words(rounds: Sequence[Round[float]], contestant: str, packet_bytes: int) -> str:
    rate = statistics.median(one.outcomes[contestant] for one in rounds)
    return f"{rate * packet_bytes / 1e9:.2f} GB/s" if packet_bytes else rate_in_words(rate)


def rate_in_words(per_second: float) -> str:
    """Packets per second, in thousands or millions."""
    return f"{per_second / 1e6:.1f} M/s" if per_second >= 1e6 else f"{per_second / 1e3:.0f} k/s"
