"""zbuf measure."""

import sys
from typing import Annotated

import typer

from zbuf.consumer.reading.opening import connect
from zbuf.consumer.reading.options import Wait
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools import words
from zbuf.consumer.tools.measure.latencies import Measured, Measuring
from zbuf.consumer.tools.measure.summary import Summary
from zbuf.shared.cli.options import BufferSize, Join, Json, OnlyProducer, RunDir, parse_size, some_seconds, whole_number
from zbuf.shared.cli.plot import check_plot
from zbuf.shared.cli.progress import progress
from zbuf.shared.errors import ZbufError

_DURATION_S = 10.0


def measure(
    name: OnlyProducer = None,
    expression: Annotated[
        list[str] | None, typer.Argument(metavar="[FILTER...]", help="A pcap-filter(7): measure these packets.")
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", parser=whole_number(1), metavar="N", help="End after N packets.")
    ] = None,
    duration: Annotated[
        float, typer.Option("-a", "--duration", parser=some_seconds, metavar="SECONDS", help="End after this time.")
    ] = _DURATION_S,
    join: Join = None,
    buffer_size: BufferSize = None,
    wait: Annotated[Wait, typer.Option(help="How to wait for packets: sleep, or spin on a processor.")] = "sleep",
    immediate: Annotated[
        bool, typer.Option("--immediate-mode/--no-immediate-mode", help="Hand over each packet at once.")
    ] = True,
    json: Json = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw latency by percentile.")] = None,
    run_dir: RunDir = None,
) -> None:
    """Measure how long packets take to a reader, from the producer's time stamp (for live ones, the kernel's)."""
    if plot is not None:
        check_plot(plot)
    name = words.named_or_only(name, run_dir)
    with connect(
        name,
        filter=" ".join(expression or []),
        join=join,
        buffer_size=None if buffer_size is None else parse_size("--buffer-size", buffer_size),
        immediate=immediate,
        wait=wait,
        run_dir=run_dir,
    ) as reader:
        measured = _measured(reader, count, duration)
    summary = Summary(name, measured)
    if json:
        summary.print_json()
    else:
        summary.print_table()
    if plot is not None:
        summary.plot(plot)
    words.check_end(name, measured.ended_by)


def _measured(reader: Reader, count: int | None, duration_s: float) -> Measured:
    measuring = Measuring(reader, count, duration_s)
    sys.stderr.write(f"zbuf: measuring {reader.name} for {duration_s:g} s at most\n")
    with progress(lambda: f"{reader.name}: {measuring.packets:,} packets"):
        measured = measuring.run()
    if not measured.packets:
        words.check_end(reader.name, measured.ended_by)
        raise ZbufError(
            f"no packets came from {reader.name!r} in {measured.seconds:.1f} s: zbuf stats {reader.name} tells why"
        )
    if measured.latencies.later_than_now:
        sys.stderr.write(
            f"zbuf: {measured.latencies.later_than_now} packets have a time later than their arrival: "
            "the clocks differ; they count as 1 ns\n"
        )
    return measured
