"""The summary at the end of zbuf measure, as a table, as JSON, or as a plot."""

import bisect
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from zbuf.consumer.tools.measure.latencies import Measured
from zbuf.shared.cli.plot import new_figure, save_plot
from zbuf.shared.cli.tables import print_table

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_STEPS_PER_HALVING = 5
"""How many percentiles are shown until the distance from 100 % is halved."""
_NS_PER_US = 1000


def percentiles(packets: int) -> Iterator[float]:
    """The percentiles that are shown for so many packets: from 0 to 100, ever closer together."""
    level, step = 0.0, 50.0 / _STEPS_PER_HALVING
    while (100 - level) / 100 * packets >= 1:
        for _ in range(_STEPS_PER_HALVING):
            yield level
            level += step
        step /= 2
    yield 100.0


class Summary:
    """The numbers that were measured at the producer `name`, from at least one packet."""

    def __init__(self, name: str, measured: Measured) -> None:
        self._name = name
        self._measured = measured
        self._histogram = measured.latencies.histogram

    def numbers(self) -> dict[str, Any]:
        """All numbers, as in the JSON output; latencies are in microseconds."""
        one = self._measured
        return {
            "producer": self._name,
            "ended_by": one.ended_by,
            "packets": one.packets,
            "seconds": one.seconds,
            "packets_per_second": one.packets / one.seconds,
            "bytes": one.captured_bytes,
            "bytes_per_second": one.captured_bytes / one.seconds,
            "lost": one.lost,
            "later_than_now": one.latencies.later_than_now,
            "latency_us": self._latencies_us(),
            "ledger": msgspec.to_builtins(one.ledger),
            "distribution": self._distribution(),
        }

    def _latencies_us(self) -> dict[str, float]:
        latencies = {f"p{percentile:g}": self._at(percentile) for percentile in _PERCENTILES}
        mean_us = self._measured.latencies.mean_ns / _NS_PER_US
        return latencies | {"max": self._histogram.max / _NS_PER_US, "mean": mean_us}

    def _at(self, percentile: float) -> float:
        return self._histogram.value_at(percentile / 100) / _NS_PER_US

    def _distribution(self) -> list[dict[str, float]]:
        """The points of the curve: a percentile, its latency, and the number of packets up to that latency."""
        buckets = self._histogram.buckets()
        so_far = list(itertools.accumulate(count for _, count in buckets))
        return [
            {
                "percentile": percentile,
                "latency_us": min(buckets[at][0], self._histogram.max) / _NS_PER_US,
                "packets": so_far[at],
            }
            for percentile in percentiles(self._histogram.total)
            for at in [bisect.bisect_left(so_far, percentile / 100 * self._histogram.total)]
        ]

    # ---- as text ------------------------------------------------------------------------------------------------

    def print_json(self) -> None:
        """Print all numbers as JSON on stdout."""
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(self.numbers())) + b"\n")

    def print_table(self) -> None:
        """Print the main numbers on stdout."""
        numbers = self.numbers()
        heads = ["packets", "seconds", "packets_per_second", "bytes_per_second", "lost"]
        print_table(
            "",
            ["packets", "seconds", "packets/s", "bytes/s", "lost", "dropped by the ledger"],
            [[*(numbers[head] for head in heads), numbers["ledger"]["dropped"]]],
        )
        latencies = numbers["latency_us"]
        print_table("", ["latency", *latencies], [["µs", *(latencies[head] for head in latencies)]])

    # ---- as a picture -------------------------------------------------------------------------------------------

    def plot(self, path: str) -> None:
        """Draw latency by percentile into a PNG file, with the same width for 90 %, 99 %, 99.9 % and so on.

        Raises:
            ZbufError: the file can't be written.
        """
        figure = new_figure()
        axes = figure.add_subplot()
        axes.plot(*self._curve(), drawstyle="steps-post")
        axes.set(title=self._title(), xlabel="percentile", ylabel="latency in µs", xscale="log", yscale="log")
        axes.grid(which="major", alpha=0.4)
        nines = [0.0, 50.0, *(p for p in (90, 99, 99.9, 99.99, 99.999, 99.9999) if p < self._last_percentile())]
        axes.set_xticks([_stretched(nine) for nine in nines], [f"{nine:g} %" for nine in nines], minor=False)
        axes.minorticks_off()
        save_plot(figure, path)

    def _curve(self) -> tuple[list[float], list[float]]:
        """The coordinates of the curve. The last packet stands for 100 %, which would be infinitely far away."""
        points = self._distribution()
        percentiles = [min(one["percentile"], self._last_percentile()) for one in points]
        return [_stretched(percentile) for percentile in percentiles], [one["latency_us"] for one in points]

    def _last_percentile(self) -> float:
        return 100 * (1 - 1 / (1 + self._measured.packets))

    def _title(self) -> str:
        numbers = self.numbers()
        latencies = ", ".join(f"{head} {value:,.1f}" for head, value in numbers["latency_us"].items())
        return (
            f"{self._name}: {numbers['packets']:,} packets in {numbers['seconds']:.1f} s, {numbers['lost']:,} lost\n"
            f"{latencies} µs"
        )


def _stretched(percentile: float) -> float:
    return 1 / (1 - percentile / 100)
