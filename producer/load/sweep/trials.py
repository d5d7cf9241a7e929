"""One trial: offers packets at one rate for some seconds, and counts what became of them."""

import contextlib
import time
from collections.abc import Sequence
from fractions import Fraction

from zbuf.producer.load.latency import Latency, measured_latency
from zbuf.producer.load.schedule import Schedule
from zbuf.producer.load.sweep.consumers import Consumer
from zbuf.producer.load.sweep.trial import Trial
from zbuf.producer.producer import Producer
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.producer.sources.pace import Pace
from zbuf.shared.control.statistics import DescriptorStatistics
from zbuf.shared.errors import CaptureFileError, ZbufError

_SLACK_S, _SLACK = 0.005, 0.005
"""How far behind a consumer that keeps up may be at the end: seconds for a wake-up, and a share of the trial."""
_LOOK_S = 0.001


class Bench:
    """A producer, its consumers, and the source that is replayed to them.

    Args:
        producer: the producer; only the consumers are connected to it.
        consumers: the consumers.
        source: the packets, which are repeated as often as it takes.
        trial_s: how long a trial lasts, in seconds.
        warm_up_s: how long packets flow at the same rate before the trial, in seconds.
        buffer_bytes: the size of each buffer, for consumers that ask for no size.
        patience_s: how long a consumer may acknowledge nothing, in seconds.
        latency: whether one more reader measures latency.
        max_lag_ms: a packet that is offered later than this is late.
    """

    def __init__(
        self,
        producer: Producer,
        consumers: Sequence[Consumer],
        source: FileSource,
        *,
        trial_s: float,
        warm_up_s: float,
        buffer_bytes: int,
        patience_s: float,
        latency: bool,
        max_lag_ms: float,
    ) -> None:
        self._producer = producer
        self._consumers = consumers
        self._source = source
        self._trial_s = trial_s
        self._warm_up_s = warm_up_s
        self._buffer_bytes = buffer_bytes
        self._hangs_after_s = patience_s
        self._latency = latency
        self._max_lag_ms = max_lag_ms
        self._theirs = {one.descriptor for one in producer.stats().descriptors}

    def run(self, rate: float | None) -> Trial:
        """Make a trial at a rate in packets per second; None for top speed.

        Raises:
            ZbufError: a consumer has ended, or hangs.
        """
        with contextlib.ExitStack() as measuring:
            latencies = measuring.enter_context(measured_latency(self._producer)) if self._latency else Latency()
            if self._warm_up_s:
                self._offer(rate, self._warm_up_s)
            before = self._descriptors()
            pace = self._offer(rate, self._trial_s)
            self._producer.rotate()
            behind, drained_s = self._drain(pace)
            after = self._descriptors()
        return Trial(
            asked=rate,
            packets=pace.packets,
            wire_bytes=pace.wire_bytes,
            seconds=pace.seconds,
            dropped=sum(one.dropped for one in after) - sum(one.dropped for one in before),
            behind=behind,
            drained_s=drained_s,
            lag_us=_lag_us(pace) if rate is not None else {},
            latency_us=latencies.us,
            descriptors=len(after),
            late=pace.behind if rate is not None else 0,
            blind_share=self._patience_s(pace) / (self._trial_s + self._warm_up_s),
        )

    def _offer(self, rate: float | None, seconds: float) -> Pace:
        pps = None if rate is None else Fraction(rate).limit_denominator(1000)
        pace = Schedule(pps=pps, duration_s=seconds, stamp="now", max_lag_ms=self._max_lag_ms).pace()
        assert pace is not None  # noqa: S101  (a schedule with a duration has a pace)
        self._producer.publish(self._source, loops=0, pace=pace)
        self._check()
        if not pace.packets:
            raise CaptureFileError(f"{', '.join(self._source.paths)}: no packets to replay")
        return pace

    def _check(self) -> None:
        for consumer in self._consumers:
            consumer.check()

    def _descriptors(self) -> list[DescriptorStatistics]:
        found = [one for one in self._producer.stats().descriptors if one.descriptor in self._theirs]
        if len(found) < len(self._theirs):
            self._wait_end()
        return found

    def _wait_end(self) -> None:
        """Wait for a consumer that has left to end, so that check() can say why; raise ZbufError in any case."""
        deadline = time.monotonic() + _SLACK_S + 1
        while time.monotonic() < deadline:
            self._check()
            time.sleep(_LOOK_S)
        commands = ", ".join(repr(one.command) for one in self._consumers)
        raise ZbufError(f"a consumer has left in the middle of a trial: {commands}")

    # ---- the end of a trial -----------------------------------------------------------------------------------------

    def _drain(self, pace: Pace) -> tuple[int, float]:
        """Wait until all packets are acknowledged.

        Returns:
            How many packets were late, and how many seconds the wait took.
        """
        started = time.monotonic()
        patience_s = self._patience_s(pace)
        in_time, left = False, self._buffered()
        behind, changed = 0, started
        while left:
            time.sleep(_LOOK_S)
            now, was = time.monotonic(), left
            left = self._buffered()
            if not in_time and now - started >= patience_s:
                in_time, behind = True, left
            if left != was:
                changed = now
            elif now - changed >= self._hangs_after_s:
                commands = ", ".join(repr(one.command) for one in self._consumers)
                raise ZbufError(f"consumer hangs: {commands} has acknowledged nothing for {self._hangs_after_s:g} s")
        return behind, time.monotonic() - started

    def _buffered(self) -> int:
        descriptors = self._descriptors()
        if any(one.buffered for one in descriptors):
            self._producer.rotate()  # no buffer may have been free when the tail was to be assigned
        return sum(one.buffered for one in descriptors)

    def _patience_s(self, pace: Pace) -> float:
        """How long a consumer that keeps up may take for the last buffer's worth of packets, in seconds."""
        rate = pace.packets_per_second or 1.0
        mean = pace.wire_bytes / max(pace.packets, 1)
        natural = [
            min(
                one.settings.timeout_ms / 1000 or self._trial_s,
                (one.settings.buffer_bytes or self._buffer_bytes) / (mean * rate or 1.0),
            )
            for one in self._descriptors()
        ]
        return max(natural, default=0.0) + _SLACK * self._trial_s + _SLACK_S


def _lag_us(pace: Pace) -> dict[str, float]:
    return {"p50": pace.lag_ns(0.5) / 1000, "p99": pace.lag_ns(0.99) / 1000, "max": pace.max_lag_ns / 1000}
