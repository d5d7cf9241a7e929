"""zbufd sweep."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from zbuf.producer.load.checks import Junit, MaxLag, check_writable, tell_failures, write_junit
from zbuf.producer.load.damage import warn
from zbuf.producer.load.schedule import DEFAULT_MAX_LAG_MS
from zbuf.producer.load.sweep.consumers import Consumer
from zbuf.producer.load.sweep.remaining import Remaining
from zbuf.producer.load.sweep.results import Results
from zbuf.producer.load.sweep.search import search_rates
from zbuf.producer.load.sweep.trial import Trial
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


def _percent(what: str, least: float, most: float) -> Callable[[str | float], float]:
    """Make a parser of percents, which returns a share."""

    def parse(text: str | float) -> float:
        try:
            percent = float(text)
        except ValueError:
            percent = -1.0
        if not least <= percent <= most:
            raise typer.BadParameter(f"{text!r} is not a {what}: give from {least:g} to {most:g} percent")
        return percent / 100

    return parse


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
        float,
        typer.Option(parser=_percent("precision", 0.01, 50), metavar="PERCENT", help="How closely a search closes in."),
    ] = 1.0,
    loss: Annotated[
        float | None,
        typer.Option(
            parser=_percent("loss", 0.0001, 90),
            metavar="PERCENT",
            help="Also find the highest rate at which no more than PERCENT is lost (the PDR).",
        ),
    ] = None,
    tries: Annotated[
        int,
        typer.Option(parser=whole_number(1, 100), metavar="N", help="How often to search, to know the spread."),
    ] = 3,
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
    max_lag: MaxLag = None,
    fail_if_lost: Annotated[
        bool, typer.Option("--fail-if-lost", help="Exit with 1 if packets were lost at every rate.")
    ] = False,
    junit: Junit = None,
    latency: Latency = False,
    json: Json = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw loss, lag and latency by rate.")] = None,
    run_dir: RunDir = None,
) -> None:
    """Find the NDR of consumers: the highest rate at which they lose nothing, RFC 2544's throughput.

    Packets are replayed from memory, at one rate in each trial. The first is at top speed, which shows where to look.
    If a file is damaged, what was whole of it is replayed, and the exit status is 1.
    """
    buffer_bytes = parse_size("--buffer-size", buffer_size)
    check_space(buffer_bytes)
    if plot is not None:
        check_plot(plot)
    if junit is not None:
        check_writable(junit)
    raise_descriptor_limit()
    interrupt_on(signal.SIGTERM, signal.SIGHUP)  # so that `with` ends the consumers, too
    source = FileSource(files, once=False)
    known = len(source.warnings)
    warn(source.warnings)
    started = time.monotonic()
    results = Results(files=files, consumers=[], trial_s=trial, precision=precision, tolerated=loss)
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
            max_lag_ms=DEFAULT_MAX_LAG_MS if max_lag is None else max_lag,
        )
        results.processes.see(producer.stats().descriptors)
        _sweep(bench, results, tries, trial + warm_up)
    if json:
        sys.stdout.write(results.as_json() + "\n")
    else:
        results.print()
    if plot is not None:
        results.plot(plot)
    warn(source.warnings[known:])
    checks = results.checks(source.damage, fail_if_lost=fail_if_lost, fail_if_late=max_lag is not None)
    if junit is not None:
        write_junit(junit, "zbufd sweep", time.monotonic() - started, checks, results.as_json())
    if tell_failures(checks[1:]) or source.damage:  # damage was told above
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


def _sweep(bench: Bench, results: Results, tries: int, trial_s: float) -> None:
    """Search for the rates; add each trial and each try to `results` as soon as it is over."""
    trials, rate = results.trials, [""]
    remaining = Remaining(tries, trial_s)

    def run(asked: float | None) -> Trial:
        rate[0] = "top speed" if asked is None else f"{asked:,.0f} packets/s"
        trials.append(bench.run(asked))
        remaining.trial_over()
        return trials[-1]

    def describe() -> str:
        last = f" ({trials[-1].rate:,.0f} packets/s lost {trials[-1].lost:,})" if trials else ""
        at = f"try {min(len(results.tries) + 1, tries)} of {tries}, trial {len(trials) + 1}"
        return f"{at}: {rate[0]}{last}, {remaining}"

    with progress(describe):
        for one in search_rates(run, results.precision, tries, results.tolerated):
            results.tries.append(one)
            remaining.search_over()
