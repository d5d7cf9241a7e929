"""The latency of a replay or a sweep: zbuf measure runs beside it as one more reader."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from zbuf.producer.producer import Producer
from zbuf.shared.cli.process import sibling
from zbuf.shared.errors import ZbufError

_PATIENCE_S = 20.0


@dataclass
class Latency:
    """What the measuring reader has found."""

    us: dict[str, float] = field(default_factory=dict)
    """p50, p90, p99, p99.9, max and mean, in microseconds; empty until the end, and if no packets came."""
    descriptors: frozenset[int] = frozenset()
    """The measuring reader's own descriptors: what they lose is no loss of the consumers under test."""


@contextlib.contextmanager
def measured_latency(producer: Producer) -> Iterator[Latency]:
    """Have a reader measure latency during the block; it has a descriptor of its own, and takes processor time.

    Yields:
        What was measured, which is complete after the block.

    Raises:
        ZbufError: the reader does not connect.
    """
    found = Latency()
    with _reader(producer) as process:
        found.descriptors = frozenset(
            one.descriptor
            for one in producer.stats().descriptors
            if any(reader.pid == process.pid for reader in one.readers)
        )
        yield found
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=_PATIENCE_S)[0]
    if process.returncode == 0:
        found.us |= json.loads(said)["latency_us"]


@contextlib.contextmanager
def _reader(producer: Producer) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of zbuf measure, which is connected and measures."""
    arguments = ["measure", producer.name, "--json", "--duration", "1000000", "--run-dir", str(producer.run_dir)]
    process = subprocess.Popen(  # noqa: S603  (the command is our own)
        sibling("zbuf", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,  # Ctrl-C is for the producer, which then ends this process
    )
    with process:
        try:
            assert process.stderr is not None  # noqa: S101  (a pipe was asked for)
            line = process.stderr.readline().decode(errors="replace").strip()
            if ": measuring " not in line:
                raise ZbufError(f"the reader that measures latency has failed: {line}")
            yield process
        finally:
            process.kill()
