"""The results of a sweep, as a table, as JSON, and as a plot."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from zbuf.producer.load.sweep.search import Trial, throughput
from zbuf.shared.cli.plot import new_figure, save_plot
from zbuf.shared.cli.tables import print_table
from zbuf.shared.errors import ZbufError

_PERCENTILES = ("p50", "p99", "max")
_DERIVED = ("rate", "lost", "lost_share", "passed")
"""Properties of a trial that JSON has beside its fields."""


@dataclass(frozen=True)
class Results:
    """The trials of a sweep, and the options that they were made with."""

    files: list[str]
    consumers: list[str]
    trial_s: float
    precision: float
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial whose rate is the throughput."""
        return throughput(self.trials)

    @property
    def is_producers_limit(self) -> bool:
        """Whether nothing was lost at the highest rate that the producer could offer."""
        last = self.trials[-1]
        return last.passed and not last.held(self.precision)

    def as_json(self) -> str:
        """The results as JSON: rates in packets per second, times in seconds, lags and latencies in microseconds."""
        best = self.best
        body: dict[str, Any] = {
            "files": self.files,
            "consumers": self.consumers,
            "trial_seconds": self.trial_s,
            "precision": self.precision,
            "throughput_pps": best.rate if best else 0.0,
            "throughput_mbps": best.mbps if best else 0.0,
            "limited_by": "producer" if self.is_producers_limit else "consumer",
            "trials": [asdict(one) | {name: getattr(one, name) for name in _DERIVED} for one in self.trials],
        }
        return json.dumps(body, indent=2)

    def print(self) -> None:
        """Print a row for each trial, in order, and the throughput."""
        self._print_trials()
        sys.stdout.write(f"\n{self.verdict()}\n")

    @contextlib.contextmanager
    def partly_printed(self, wanted: bool) -> Iterator[None]:
        """If the block is interrupted or fails, print the trials up to then, without a verdict, if `wanted` is true."""
        try:
            yield
        except (ZbufError, KeyboardInterrupt):
            if self.trials and wanted:
                self._print_trials()
            raise

    def _print_trials(self) -> None:
        measured = any(one.latency_us for one in self.trials)
        columns = ["asked packets/s", "offered packets/s", "packets", "lost", "lost %", "taken after ms"]
        columns += [f"lag {name} µs" for name in _PERCENTILES]
        columns += [f"latency {name} µs" for name in _PERCENTILES] if measured else []
        print_table("", [*columns, ""], [self._row(one, measured) for one in self.trials])

    def _row(self, one: Trial, measured: bool) -> list[Any]:
        row: list[Any] = ["top speed" if one.asked is None else f"{one.asked:,.0f}", round(one.rate), one.packets]
        row += [one.lost, f"{100 * one.lost_share:.3f}", f"{one.drained_s * 1000:.1f}"]
        row += [_number(one.lag_us, name) for name in _PERCENTILES]
        row += [_number(one.latency_us, name) for name in _PERCENTILES] if measured else []
        return [*row, "throughput" if one is self.best else ""]

    def verdict(self) -> str:
        """The throughput in words."""
        best = self.best
        if best is None:
            return "throughput: unknown, since packets were lost at every rate"
        rate = f"throughput: {best.rate:,.0f} packets/s, {best.mbps:,.1f} Mbit/s"
        if self.is_producers_limit:
            fastest = "at top speed" if len(self.trials) == 1 else "at what the producer could offer"
            return f"{rate}: nothing was lost {fastest}, so the consumer may be faster than this"
        return f"{rate}, within {100 * self.precision:g} %"

    def plot(self, path: str) -> None:
        """Draw loss, lag and latency by rate into a PNG file.

        Raises:
            ZbufError: the file can't be written.
        """
        figure = new_figure()
        loss, times = figure.subplots(2, 1, sharex=True)
        trials = sorted(self.trials, key=lambda one: one.rate)
        rates = [one.rate for one in trials]
        loss.plot(rates, [100 * one.lost_share for one in trials], "o-", color="tab:red")
        loss.set(title=f"{', '.join(self.consumers)}\n{self.verdict()}", ylabel="lost, % of packets")
        if self.best is not None:
            loss.axvline(self.best.rate, linestyle="--", color="tab:green")
        for kind, style in (("lag", ":"), ("latency", "-")):
            for name in _PERCENTILES:
                points = [(one.rate, found[name]) for one in trials if name in (found := getattr(one, f"{kind}_us"))]
                if points:
                    times.plot(*zip(*points, strict=True), f"o{style}", label=f"{kind} {name}")
        times.plot(rates, [one.drained_s * 1e6 for one in trials], "x-", color="grey", label="taken after the end")
        times.set(xlabel="packets per second", ylabel="µs", xscale="log", yscale="log")
        times.legend()
        for axes in (loss, times):
            axes.grid(visible=True, alpha=0.4)
        save_plot(figure, path)


def _number(found: dict[str, float], name: str) -> str:
    return f"{found[name]:,.1f}" if name in found else "-"
