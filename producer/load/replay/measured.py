"""Measures a replay while it runs, and makes the report of it."""

import contextlib
import datetime
import shlex
import sys
import time
from collections.abc import Iterator

from zbuf.producer.load.latency import Latency, measured_latency
from zbuf.producer.load.overtime import Counts, Interval, intervals
from zbuf.producer.load.processes import Processes
from zbuf.producer.load.replay.report import Report, pacing_of
from zbuf.producer.load.replay.sampling import Samples, rates
from zbuf.producer.load.schedule import Schedule
from zbuf.producer.producer import Producer
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.producer.sources.pace import Pace
from zbuf.producer.sources.python import ScapySource
from zbuf.shared.cli.machine import facts
from zbuf.shared.control.statistics import Statistics


class Measured:
    """The numbers of a replay that runs, or has ended.

    Args:
        want_latency: have a reader measure latency.
        want_rates: note the rate over time.
    """

    def __init__(self, *, want_latency: bool, want_rates: bool) -> None:
        self._want_latency = want_latency
        self._want_rates = want_rates
        self._machine = facts()
        self._began = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        self._pace: Pace | None = None
        self._packets = self._waits = 0
        self._started = time.perf_counter()
        self._seconds = 0.0
        self._latency = Latency()
        self._over_time: list[Interval] = []
        self._processes = Processes()
        self._rates: list[tuple[float, float]] = []

    @property
    def age_s(self) -> float:
        """Seconds since the replay began."""
        return max(time.perf_counter() - self._started, 1e-9)

    @contextlib.contextmanager
    def during(self, producer: Producer, pace: Pace | None) -> Iterator[None]:
        """Measure what the producer offers during the block."""
        self._pace = pace
        with contextlib.ExitStack() as stack:
            if self._want_latency:
                self._latency = stack.enter_context(measured_latency(producer))
            samples = stack.enter_context(Samples(lambda: producer.offered)) if self._want_rates else None
            seconds = stack.enter_context(Samples(lambda: self._look(producer, pace), finest_s=1.0))
            self._started = time.perf_counter()
            yield
            self._seconds = time.perf_counter() - self._started
            self._packets, self._waits = producer.offered, producer.stats().waits
        if samples is not None:
            self._rates = rates(samples.found)
        self._over_time = intervals(seconds.found)

    def _look(self, producer: Producer, pace: Pace | None) -> Counts:
        """Count what has come to pass by now, and see who reads."""
        statistics = producer.stats()
        self._processes.see(statistics.descriptors)
        ledgers = [statistics.closed, *statistics.descriptors]
        return Counts(
            offered=statistics.offered,
            dropped=sum(one.dropped for one in ledgers),
            late=0 if pace is None else pace.behind,
            lags=dict(pace.lags()) if pace is not None and pace.timed else {},
        )

    def report(
        self, files: list[str], schedule: Schedule, statistics: Statistics, source: FileSource | ScapySource
    ) -> Report:
        """Make the report; call this when the readers have taken everything."""
        pace = self._pace
        return Report(
            command=shlex.join(["zbufd", *sys.argv[1:]]),
            files=files,
            began=self._began,
            packets=self._packets,
            seconds=self._seconds if pace is None else pace.seconds,
            statistics=statistics,
            warnings=source.warnings,
            damage=source.damage,
            pacing=None if pace is None else pacing_of(schedule, pace, self._waits),
            sizes=source.sizes if isinstance(source, FileSource) else None,
            latency_us=self._latency.us,
            not_under_test=self._latency.descriptors,
            machine=self._machine,
            lags=[] if pace is None or not pace.timed else pace.lags(),
            rates=self._rates,
            over_time=self._over_time,
            processes=self._processes.found,
        )
