"""zbufd sweep."""

import contextlib
import signal
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from zbuf.producer.load.damage import warn
from zbuf.producer.load.sweep.consumers import Consumer
from zbuf.producer.load.sweep.results import Results
from zbuf.producer.load.sweep.search import Trial, find_throughput
from zbuf.producer.load.sweep.trials import Bench
from zbuf.producer.producer import Producer
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.shared.cli.options import Json, Latency, RunDir, parse_size, seconds, some_seconds, whole_number
from zbuf.shared.cli.plot import check_plot
from zbuf.shared.cli.process import interrupt_on, raise_descriptor_limit
from zbuf.shared.cli.progress import progress
from zbuf.shared.errors import ZbufError
from zbuf.shared.memory.segment import check_space
from zbuf.shared.names import name_from_path

_LOOK_S = 0.1


def _percent(text: str | float) -> float:
    try:
        share = float(text) / 100
    except ValueError:
        share = 0.0
    if not 0.0001 <= share <= 0.5:
        raise typer.BadParameter(f"{text!r} is not a precision: give from 0.01 to 50 percent")
    return share


def sweep(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Capture files, gzipped or not.")],
    consumer: Annotated[
        list[str],
        typer.Option(metavar="COMMAND", help="A shell command that reads {name}, the producer. Repeatable."),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="N", help="What the consumers connect to [the first file's stem].")
    ] = None,
    trial: Annotated[
        float, typer.Option(parser=some_seconds, metavar="SECONDS", help="How long packets flow at each rate.")
    ] = 5.0,
    warm_up: Annotated[
        float, typer.Option(parser=seconds, metavar="SECONDS", help="How long they flow before losses count.")
    ] = 0.5,
    precision: Annotated[
        float, typer.Option(parser=_percent, metavar="PERCENT", help="End when the throughput is known to PERCENT.")
    ] = 1.0,
    tries: Annotated[
        int,
        typer.Option(parser=whole_number(1, 100), metavar="N", help="Trials of each rate; one must lose nothing."),
    ] = 2,
    readers: Annotated[
        int | None,
        typer.Option(parser=whole_number(1), metavar="N", help="Readers to wait for [one for each command]."),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            parser=some_seconds, metavar="SECONDS", help="How long consumers may take to connect, or to take packets."
        ),
    ] = 30.0,
    buffer_size: Annotated[
        str, typer.Option(metavar="S", help="Size of a buffer, for consumers that give none.")
    ] = "2M",
    latency: Latency = False,
    json: Json = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw loss, lag and latency by rate.")] = None,
    run_dir: RunDir = None,
) -> None:
    """Find the throughput of consumers: the highest rate at which they lose nothing (RFC 2544).

    Packets are replayed from memory, at one rate in each trial. The first is at top speed, which shows where to look.
    If a file is damaged, what was whole of it is replayed, and the exit status is 1.
    """
    buffer_bytes = parse_size("--buffer-size", buffer_size)
    check_space(buffer_bytes)
    if plot is not None:
        check_plot(plot)
    raise_descriptor_limit()
    interrupt_on(signal.SIGTERM, signal.SIGHUP)  # so that `with` ends the consumers, too
    source = FileSource(files, once=False)
    known = len(source.warnings)
    warn(source.warnings)
    trials: list[Trial] = []
    results = Results(files=files, consumers=[], trial_s=trial, precision=precision, trials=trials)
    with results.partly_printed(not json), contextlib.ExitStack() as closing:
        producer = closing.enter_context(
            Producer(
                name or name_from_path(files[0]),
                interfaces=source.interfaces,
                buffer_size=buffer_bytes,
                run_dir=run_dir,
                linger_s=0.0,
            )
        )
        consumers = [closing.enter_context(Consumer(one, producer.name, producer.run_dir)) for one in consumer]
        results.consumers.extend(one.command for one in consumers)
        _wait_readers(producer, consumers, readers or len(consumers), wait)
        bench = Bench(
            producer,
            consumers,
            source,
            trial_s=trial,
            warm_up_s=warm_up,
            buffer_bytes=buffer_bytes,
            patience_s=wait,
            latency=latency,
        )
        _sweep(bench, precision, tries, trials)
    if json:
        sys.stdout.write(results.as_json() + "\n")
    else:
        results.print()
    if plot is not None:
        results.plot(plot)
    warn(source.warnings[known:])
    if source.damage:
        raise typer.Exit(1)


def _wait_readers(producer: Producer, consumers: Sequence[Consumer], count: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with progress(lambda: f"{producer.name}: waiting for {count} readers"):
        while not producer.wait_readers(count, _LOOK_S):
            for consumer in consumers:
                consumer.check()
            if time.monotonic() >= deadline:
                commands = ", ".join(repr(one.command) for one in consumers)
                raise ZbufError(
                    f"consumer {commands} has not connected to {producer.name!r} within {seconds:g} s: "
                    "write {name} where the command takes the producer's name"
                )


def _sweep(bench: Bench, precision: float, tries: int, trials: list[Trial]) -> None:
    """Search for the throughput; add each trial to `trials` as soon as it is over."""
    rate = [""]

    def run(asked: float | None) -> Trial:
        rate[0] = "top speed" if asked is None else f"{asked:,.0f} packets/s"
        trials.append(bench.run(asked))
        return trials[-1]

    def describe() -> str:
        last = f" ({trials[-1].rate:,.0f} packets/s lost {trials[-1].lost:,})" if trials else ""
        return f"trial {len(trials) + 1}: {rate[0]}{last}"

    with progress(describe):
        find_throughput(run, precision, tries)
