"""What zbuf measure tells: a table, JSON, a plot."""

import sys
from typing import Any

import msgspec

from zbuf.consumer.tools.measure.latencies import Measured
from zbuf.shared.cli.plot import new_figure, save_plot
from zbuf.shared.cli.tables import print_table

_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_STEPS_PER_HALVING = 5
"""How many percentiles the distribution has on each way to half the distance from 100 %."""
_NS_PER_US = 1000


class Report:
    """A measuring of the producer `name` in numbers; there is a packet at least."""

    def __init__(self, name: str, measured: Measured) -> None:
        self._name = name
        self._measured = measured
        self._histogram = measured.latencies.histogram()

    def numbers(self) -> dict[str, Any]:
        """All of it, as JSON has it: latencies in microseconds."""
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
        at = self._histogram.get_percentile_to_value_dict(list(_PERCENTILES))
        latencies = {f"p{percentile:g}": self._in_us(at[percentile]) for percentile in _PERCENTILES}
        of_all = self._measured.latencies
        return latencies | {"max": of_all.max_ns / _NS_PER_US, "mean": of_all.mean_ns / _NS_PER_US}

    def _in_us(self, value_ns: int) -> float:
        """A bucket's value is the highest that it stands for, which none needs to have reached."""
        return min(value_ns, self._measured.latencies.max_ns) / _NS_PER_US

    def _distribution(self) -> list[dict[str, float]]:
        return [
            {
                "percentile": one.percentile_level_iterated_to,
                "latency_us": self._in_us(one.value_iterated_to),
                "packets": one.total_count_to_this_value,
            }
            for one in self._histogram.get_percentile_iterator(_STEPS_PER_HALVING)
        ]

    # ---- as text ------------------------------------------------------------------------------------------------

    def print_json(self) -> None:
        """All of it, on stdout."""
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(self.numbers())) + b"\n")

    def print_table(self) -> None:
        """The numbers in short, on stdout."""
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
        """Latency by percentile to a PNG file, with as much room for each nine as for the one before.

        Raises:
            ZbufError: it can't be written.
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
        """Where 100 % would be without end, the last packet stands in for it."""
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
