"""``python -m bench``: measure everything, print a table, write a JSON file, draw plots."""

import dataclasses
import datetime
import signal
import sys
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import (
    batches,
    buffers,
    dump,
    files,
    index,
    iterate,
    latency,
    live,
    machine,
    pacing,
    plots,
    readers,
    ring,
    scapy_socket,
    sizes,
    switches,
    syscalls,
    throughput,
)
from bench.captures import Capture, existing, mixed_sizes
from bench.machine import CacheLine
from bench.measure import Row, Session
from bench.report import print_table, write_json
from bench.stage import ROOT, BenchError
from zbuf.shared.cli.machine import facts as this_machine
from zbuf.shared.errors import ZbufError

_THOROUGH = {"rounds": 7, "most_rounds": 14, "shorten": 1}
_QUICK = {"rounds": 2, "most_rounds": 2, "shorten": 4}
_WIDTH = 120  # of the table, if no terminal says how wide it is


class Measure(StrEnum):
    """The measures, by name."""

    RING = "ring"
    ITERATE = "iterate"
    INDEX = "index"
    BATCHES = "batches"
    SCAPY_SOCKET = "scapy_socket"
    SYSCALLS = "syscalls"
    SWITCHES = "switches"
    SIZES = "sizes"
    BUFFERS = "buffers"
    READERS = "readers"
    LIVE = "live"
    LATENCY = "latency"
    MESSAGES = "messages"
    DUMP = "dump"
    PACING = "pacing"
    PRELOAD = "preload"
    STREAM = "stream"
    ZSTD = "zstd"


_MEASURES: dict[Measure, Callable[[Session], list[Row]]] = {
    Measure.RING: ring.measure,
    Measure.ITERATE: iterate.measure,
    Measure.INDEX: index.measure,
    Measure.BATCHES: batches.measure,
    Measure.SCAPY_SOCKET: scapy_socket.measure,
    Measure.SYSCALLS: syscalls.measure,
    Measure.SWITCHES: switches.measure,
    Measure.SIZES: sizes.measure,
    Measure.BUFFERS: buffers.measure,
    Measure.READERS: readers.measure,
    Measure.LIVE: live.measure,
    Measure.LATENCY: latency.measure,
    Measure.MESSAGES: throughput.measure,
    Measure.DUMP: dump.measure,
    Measure.PACING: pacing.measure,
    Measure.PRELOAD: files.measure_preload,
    Measure.STREAM: files.measure_stream,
    Measure.ZSTD: files.measure_zstd,
}

_LONG_ROUNDS = (
    Measure.RING,
    Measure.ITERATE,
    Measure.SCAPY_SOCKET,
    Measure.READERS,
    Measure.LIVE,
    Measure.LATENCY,
    Measure.MESSAGES,
    Measure.PACING,
    Measure.PRELOAD,
    Measure.STREAM,
    Measure.ZSTD,
)
"""Measures whose rounds take so long that --quick runs one only."""


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and shorter rounds: less than two minutes.")] = False,
    only: Annotated[list[Measure] | None, typer.Option(help="One measure; may be given several times.")] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", exists=True, dir_okay=False, help="A capture to use, not a made one.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="PATH", help="Where to write the numbers, in full.")] = None,
) -> None:
    """Measure zbuf against its peers."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # so that everything is cleaned up
    began = datetime.datetime.now().astimezone()
    facts = this_machine()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, soft_wrap=True)
    try:
        with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
            capture = mixed_sizes(Path(directory)) if file is None else existing(file)
            rows = _measure(only or list(Measure), capture, quick)
    except (BenchError, ZbufError, OSError) as error:
        sys.exit(f"bench: {error}")
    print_table(console, rows)
    path = json or ROOT / "bench" / "results" / f"{began:%Y-%m-%d-%H%M%S}.json"
    options = {"quick": quick, "capture": str(capture), "began": began.isoformat()}
    write_json(path, rows, **options, machine=facts, versions=machine.versions())
    console.print(f"{capture}; the numbers of every round: {path}")
    for plot in plots.draw(path):
        console.print(f"a plot: {plot}")


def _measure(measures: list[Measure], capture: Capture, quick: bool) -> list[Row]:
    with CacheLine.meter() as cache_line, Console(stderr=True).status("") as status:  # which only a terminal shows
        session = Session(capture, cache_line, status.update, **(_QUICK if quick else _THOROUGH))
        once = dataclasses.replace(session, rounds=1, most_rounds=1) if quick else session
        return [row for name in measures for row in _MEASURES[name](once if name in _LONG_ROUNDS else session)]


if __name__ == "__main__":
    typer.run(main)
