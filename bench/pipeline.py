"""zbuf's side of a run: what its producer process and its reader processes do.

The clock is CLOCK_MONOTONIC, one for all processes: a run begins when the producer, whose file is in memory and whose
reader is connected, offers the first packet, and ends on the side that the measure names.
"""

import time
from collections.abc import Callable

from bench.captures import Capture
from bench.stage import BenchError, Stage
from zbuf.consumer.client import Reader
from zbuf.consumer.opening import connect
from zbuf.producer.service import Producer
from zbuf.producer.sources import FileSource
from zbuf.shared.errors import ProducerNotFound

_PATIENCE_S = 60.0
"""For the other process to come up."""

Times = dict[str, float]
"""packets, and where it is known when they began and ended, in seconds of CLOCK_MONOTONIC."""


def replay(name: str, run_dir: str, file: str, loops: int) -> Times:
    """Be the producer: a file from memory, `loops` times, lossless, with the default buffers of 2 MiB.

    It ends with the last acknowledgement.
    """
    source = FileSource([file])
    with Producer(name, linktype=source.linktype, lossless=True, run_dir=run_dir, linger_s=None) as producer:
        if not producer.wait_readers(1, _PATIENCE_S):
            raise BenchError("no reader came")
        began = time.monotonic()
        packets = producer.publish(source, loops=loops)
        producer.close()
        ended = time.monotonic()
    return {"packets": packets, "began": began, "ended": ended}


def read(name: str, run_dir: str, take_all: Callable[[Reader], int]) -> Times:
    """Be a reader: connect as soon as the producer is there; `take_all` takes everything, and returns the packets."""
    return read_counts(name, run_dir, lambda reader: {"packets": take_all(reader)})


def read_counts(name: str, run_dir: str, take_all: Callable[[Reader], Times]) -> Times:
    """The same, where `take_all` counts more than packets."""
    with _connect(name, run_dir) as reader:
        counts = take_all(reader)
        return counts | {"ended": time.monotonic()}


def _connect(name: str, run_dir: str) -> Reader:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return connect(name, run_dir=run_dir)
        except ProducerNotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def run(capture: Capture, loops: int, reader: Callable[[str, str], Times]) -> tuple[Times, Times]:
    """One run of a producer and a reader, each a process of its own; returns what they say, the producer first."""
    with Stage() as stage:
        reading = stage.call(reader, **stage.place)
        replaying = stage.call(replay, **stage.place, file=capture.path, loops=loops)
        produced, taken = replaying.result(), reading.result()
    if not produced["packets"] == taken["packets"] == capture.packets * loops:
        raise BenchError(f"{capture.packets * loops} packets to replay, {produced} replayed, {taken} read")
    return produced, taken


def packets_per_second(times: Times, *others: Times) -> float:
    """From the first packet to the end, where several processes tell one of them each."""
    every: Times = {}
    for one in (times, *others):
        every |= one
    return every["packets"] / (every["ended"] - every["began"])
