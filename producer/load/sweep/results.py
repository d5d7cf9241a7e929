"""The results of a sweep, as a table, as JSON, and as a plot."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from zbuf import __version__
from zbuf.producer.load.checks import Check
from zbuf.producer.load.processes import Processes, print_processes
from zbuf.producer.load.sweep.figures import Figure
from zbuf.producer.load.sweep.search import Answer, Try
from zbuf.producer.load.sweep.trial import Trial
from zbuf.shared.cli.plot import new_figure, save_plot
from zbuf.shared.cli.tables import print_table
from zbuf.shared.errors import ZbufError

_PERCENTILES = ("p50", "p99", "max")
_DERIVED = ("rate", "lost", "lost_share", "passed")
"""Properties of a trial that JSON has beside its fields."""


@dataclass(frozen=True)
class Results:
    """The trials and tries of a sweep, and the options that they were made with."""

    files: list[str]
    consumers: list[str]
    trial_s: float
    precision: float
    tolerated: float | None = None
    """The loss at the PDR, as a share; None if that was not searched for."""
    trials: list[Trial] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)
    processes: Processes = field(default_factory=Processes)

    @property
    def ndr(self) -> Figure | None:
        """The highest rate at which nothing was lost; None if something was lost at every rate."""
        return self._figure([one.ndr for one in self.tries])

    @property
    def pdr(self) -> Figure | None:
        """The highest rate at which no more was lost than is tolerated; None if there is none, or none was wanted."""
        return self._figure([one.pdr for one in self.tries])

    def _figure(self, answers: list[Answer | None]) -> Figure | None:
        trials = [one.trial for one in answers if one is not None]
        if not trials:
            return None
        return Figure([one.rate for one in trials], max(self.precision, *(one.blind_share for one in trials)))

    @property
    def is_producers_limit(self) -> bool:
        """Whether the producer could offer no more, so that the consumer may be faster."""
        return any(one.ndr is not None and one.ndr.by_producer for one in self.tries)

    def checks(self, damage: list[str], *, fail_if_lost: bool, fail_if_late: bool) -> list[Check]:
        """What a sweep can fail by; the checks that were not asked for are told, too."""
        loss = None if self.ndr is not None else "packets were lost at every rate"
        late = None if not self.is_producers_limit else "this machine could offer no rate at which packets are lost"
        return [
            Check("input", "the files are whole", "; ".join(damage) or None),
            Check("loss", "there is a rate at which nothing is lost", loss, None if fail_if_lost else "--fail-if-lost"),
            Check("rate", "the consumer sets the limit", late, None if fail_if_late else "--max-lag"),
        ]

    def as_json(self) -> str:
        """The results as JSON: rates in packets per second, times in seconds, lags and latencies in microseconds."""
        ndr, pdr = self.ndr, self.pdr
        body: dict[str, Any] = {
            "report": "sweep",
            "version": __version__,
            "files": self.files,
            "consumers": self.consumers,
            "processes": {
                number: [asdict(process) for process in found] for number, found in self.processes.found.items()
            },
            "trial_seconds": self.trial_s,
            "precision": self.precision,
            "tolerated_loss": self.tolerated,
            "ndr": None if ndr is None else ndr.as_dict(),
            "pdr": None if pdr is None else pdr.as_dict(),
            "mean_wire_bytes": self._mean_bytes,
            "limited_by": "producer" if self.is_producers_limit else "consumer",
            "trials": [asdict(one) | {name: getattr(one, name) for name in _DERIVED} for one in self.trials],
        }
        return json.dumps(body, indent=2)

    @property
    def _mean_bytes(self) -> float:
        return sum(one.wire_bytes for one in self.trials) / max(sum(one.packets for one in self.trials), 1)

    def print(self) -> None:
        """Print a row for each trial, in order, who the consumers were, and the rates that were found."""
        self._print_trials()
        print_processes(self.processes.found)
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
        columns = ["asked packets/s", "offered packets/s", "packets", "lost", "lost %", "late", "taken after ms"]
        columns += [f"lag {name} µs" for name in _PERCENTILES]
        columns += [f"latency {name} µs" for name in _PERCENTILES] if measured else []
        print_table("", [*columns, ""], [self._row(one, measured) for one in self.trials])

    def _row(self, one: Trial, measured: bool) -> list[Any]:
        row: list[Any] = ["top speed" if one.asked is None else f"{one.asked:,.0f}", round(one.rate), one.packets]
        row += [one.lost, f"{100 * one.lost_share:.3f}", one.late, f"{one.drained_s * 1000:.1f}"]
        row += [_number(one.lag_us, name) for name in _PERCENTILES]
        row += [_number(one.latency_us, name) for name in _PERCENTILES] if measured else []
        return [*row, self._mark(one)]

    def verdict(self) -> str:
        """The rates in words, a line each."""
        if self.ndr is None:
            said = "NDR: unknown, since packets were lost at every rate"
        else:
            said = f"NDR, at which nothing was lost: {self.ndr}, {self._mbps(self.ndr)}"
        if self.is_producers_limit:
            fastest = "at top speed" if len(self.trials) == 1 else "at what the producer could offer"
            said += f": nothing was lost {fastest}, so the consumer may be faster than this"
        if self.tolerated is None:
            return said
        name = f"PDR, at which {100 * self.tolerated:g} % was lost at most"
        return f"{said}\n{name}: " + ("unknown" if self.pdr is None else f"{self.pdr}, {self._mbps(self.pdr)}")

    def _mbps(self, figure: Figure) -> str:
        return f"{figure.rounded * self._mean_bytes * 8e-6:,.4g} Mbit/s"

    def _mark(self, trial: Trial) -> str:
        """What a trial's rate is an answer of."""
        marks = [
            name
            for name, answers in (("NDR", [one.ndr for one in self.tries]), ("PDR", [one.pdr for one in self.tries]))
            if any(one is not None and one.trial is trial for one in answers)
        ]
        return ", ".join(marks)

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
        for figure_of, color in ((self.ndr, "tab:green"), (self.pdr, "tab:orange")):
            if figure_of is not None:
                loss.axvline(figure_of.middle, linestyle="--", color=color)
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
