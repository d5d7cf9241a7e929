"""zbuf's side of a run: what its producer process and its reader processes do.

The clock is CLOCK_MONOTONIC, one for all processes: a run begins when the producer, whose file is in memory and whose
reader is connected, offers the first packet, and ends on the side that the measure names.
"""

import resource
import time
from collections.abc import Callable, Sequence

from bench.captures import Capture
from bench.stage import BenchError, Stage
from zbuf.consumer.reading.connection import wait_for_producer
from zbuf.consumer.reading.opening import connect
from zbuf.consumer.reading.reader import Reader
from zbuf.producer.producer import Producer
from zbuf.producer.sources.files.file_source import DEFAULT_PRELOAD_LIMIT_BYTES, FileSource
from zbuf.shared.memory.layout import DEFAULT_BUFFER_BYTES

_PATIENCE_S = 60.0
"""How long the other process may take to come up."""

Times = dict[str, float]
"""What a process tells: packets; when they began and ended, if it knows, in seconds of CLOCK_MONOTONIC; cpu_s, its
processor time in seconds; and its context switches, voluntary and involuntary."""


class Usage:
    """What this process uses from here on, with all its threads: see getrusage(2)."""

    def __init__(self) -> None:
        self._before = self._now()

    def taken(self) -> Times:
        """What it used until now."""
        now = self._now()
        return {what: now[what] - before for what, before in self._before.items()}

    @staticmethod
    def _now() -> Times:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu_s": time.process_time(), "voluntary": used.ru_nvcsw, "involuntary": used.ru_nivcsw}


def replay(
    name: str,
    run_dir: str,
    file: str,
    loops: int,
    readers: int = 1,
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    preload_limit_bytes: int = DEFAULT_PRELOAD_LIMIT_BYTES,
) -> Times:
    """Be the producer: a file from memory, or a larger one streamed, `loops` times, lossless, to so many readers.

    It ends with the last acknowledgement.
    """
    source = FileSource([file], preload_limit_bytes)
    with Producer(
        name, linktype=source.linktype, lossless=True, buffer_size=buffer_bytes, run_dir=run_dir, linger_s=None
    ) as producer:
        if not producer.wait_readers(readers, _PATIENCE_S):
            raise BenchError(f"{readers} readers were to come, and some did not")
        usage, began = Usage(), time.monotonic()
        packets = producer.publish(source, loops=loops)
        producer.close()
        ended, taken = time.monotonic(), usage.taken()
    return {"packets": packets, "began": began, "ended": ended, **taken}


def read(name: str, run_dir: str, take_all: Callable[[Reader], int], join: str | None = None) -> Times:
    """Be a reader: connect as soon as the producer is there; `take_all` takes everything, and returns the packets."""
    return read_counts(name, run_dir, lambda reader: {"packets": take_all(reader)}, join)


def read_counts(name: str, run_dir: str, take_all: Callable[[Reader], Times], join: str | None = None) -> Times:
    """Be such a reader, whose `take_all` counts more than packets."""
    with wait_for_producer(lambda: connect(name, run_dir=run_dir, join=join), _PATIENCE_S) as reader:
        usage = Usage()
        counts = take_all(reader)
        return counts | {"ended": time.monotonic(), **usage.taken()}


def run(
    capture: Capture, loops: int, reader: Callable[[str, str], Times], *, buffer_bytes: int = DEFAULT_BUFFER_BYTES
) -> tuple[Times, Times]:
    """One run of a producer and a reader, each a process of its own; returns what they say, the producer first."""
    produced, taken = run_all(capture, loops, [reader], buffer_bytes=buffer_bytes)
    return produced, taken[0]


def run_all(
    capture: Capture,
    loops: int,
    readers: Sequence[Callable[[str, str], Times]],
    *,
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
) -> tuple[Times, list[Times]]:
    """One run of a producer and any number of readers."""
    with Stage() as stage:
        reading = [stage.call(reader, **stage.place) for reader in readers]
        replaying = stage.call(
            replay,
            **stage.place,
            file=capture.path,
            loops=loops,
            readers=len(readers),
            buffer_bytes=buffer_bytes,
        )
        produced = replaying.result()
        taken = [one.result() for one in reading]
    if {one["packets"] for one in (produced, *taken)} != {capture.packets * loops}:
        raise BenchError(f"{capture.packets * loops} packets to replay, {produced} replayed, {taken} read")
    return produced, taken


def packets_per_second(times: Times, *others: Times) -> float:
    """Packets per second from the first packet to the end; several processes may tell one of these moments each."""
    every: Times = {}
    for one in (times, *others):
        every |= one
    return every["packets"] / (every["ended"] - every["began"])
