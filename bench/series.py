"""A series of runs of zbuf that differ in one thing, and the straight line through them.

The runs take turns, as contestants do. Each round that counts gives a line of its own, by least squares of the relative
errors, so that a point that costs ten times as much does not count ten times; the result is the median of each of its
coefficients, with the smallest and the largest beside it.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy

from bench.measure import Row, Session, conditions

Outcome = Mapping[str, float]
"""The results of a run, by name."""


class Series:
    """A series, which runs when it is made.

    Args:
        session: says how often to run.
        name: of the measure.
        runs: the functions that run, by name.
        processors: how many processors a run keeps busy.
    """

    def __init__(
        self, session: Session, name: str, runs: Mapping[str, Callable[[], Outcome]], processors: int = 2
    ) -> None:
        self.name = name
        self._counted, self._rounds = session.take_turns(name, runs, lambda _: processors)

    def median(self, run: str, what: str) -> float:
        """The median of the rounds that count."""
        return statistics.median(self._values(run, what))

    def spread(self, run: str, what: str) -> tuple[float, float]:
        """The smallest and the largest of the rounds that count."""
        values = self._values(run, what)
        return min(values), max(values)

    def ratios(self, run: str, other: str, what: str) -> list[float]:
        """The ratio of two runs in each round that counts."""
        return [
            of_run / of_other
            for of_run, of_other in zip(self._values(run, what), self._values(other, what), strict=True)
        ]

    def _values(self, run: str, what: str) -> list[float]:
        return [one.outcomes[run][what] for one in self._counted]

    def row(
        self, run: str, what: str, told: str, beside: str = "", ratios: Sequence[float] = (), **data: object
    ) -> Row:
        """A row for a run.

        Args:
            run: its name.
            what: the outcome whose spread is told, in millions, unless there are ratios.
            told: the result, in words.
            beside: the text for the column of the peer.
            ratios: one for each round that counts.
            data: more for the JSON file, which has the outcomes of every round in any case.
        """
        low, high = (min(ratios), max(ratios)) if ratios else (one / 1e6 for one in self.spread(run, what))
        return Row(
            f"{self.name}, {run}",
            told,
            beside,
            f"{statistics.median(ratios):.2f}" if ratios else "",
            f"{low:.2f}..{high:.2f}" if ratios else f"{low:.1f}..{high:.1f}",
            conditions=self.conditions,
            data={**self.facts(run), **data},
        )

    @property
    def conditions(self) -> str:
        """The conditions of the rounds that count, in words."""
        return conditions(self._counted)

    def facts(self, run: str) -> dict[str, object]:
        """Everything that was measured of a run, for the JSON file."""
        outcomes = self._counted[0].outcomes[run]
        return {
            "series": self.name,
            "medians": {one: self.median(run, one) for one in outcomes},
            "spreads": {one: self.spread(run, one) for one in outcomes},
            "rounds": [
                {"outcome": one.outcomes[run], "crowd": one.crowd, "cache_line_ns": one.cache_line_ns}
                for one in self._rounds
            ],
        }

    def line(self, what: str, called: str, terms: Sequence[str], points: Mapping[str, Sequence[float]]) -> list[Row]:
        """A row for each coefficient of `what` = c0 * x0 + c1 * x1 + …

        Args:
            what: the outcome, in nanoseconds.
            called: what it is called in the table.
            terms: what the coefficients mean.
            points: for each run its x0, x1, …
        """
        lines = [_fit(list(points.values()), [one.outcomes[run][what] for run in points]) for one in self._counted]
        middle = numpy.median(lines, axis=0)
        off = max(abs(float(numpy.dot(middle, at)) / self.median(run, what) - 1) for run, at in points.items())
        return [
            Row(
                f"{self.name}: {called}{term}",
                f"{value:.{_digits(value)}f} ns",
                f"(line within {off:.0%})" if term == terms[0] else "",
                spread=f"{min(found):.{_digits(value)}f}..{max(found):.{_digits(value)}f}",
                data={"series": self.name, "fit": what, "term": term, "value": value, "values": found, "off": off},
            )
            for term, value, found in zip(terms, map(float, middle), numpy.transpose(lines).tolist(), strict=True)
        ]


def _fit(points: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    measured = numpy.array(values)
    relative = numpy.array(points) / measured[:, None]
    found: list[float] = numpy.linalg.lstsq(relative, numpy.ones_like(measured), rcond=None)[0].tolist()
    return found


def _digits(value: float) -> int:
    return 1 if abs(value) >= 1 else 4
