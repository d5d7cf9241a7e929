"""zbuf measure."""

import sys
from typing import Annotated

import typer

from zbuf.consumer.reading.opening import connect
from zbuf.consumer.reading.options import Wait
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.measure.latencies import Measured, Measuring
from zbuf.consumer.tools.measure.report import Report
from zbuf.shared.cli.commandline import Json, RunDir, parse_size, some_seconds, whole_number
from zbuf.shared.cli.plot import check_plot
from zbuf.shared.cli.progress import Progress
from zbuf.shared.errors import ZbufError

_DURATION_S = 10.0


def measure(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The producer's name; zbuf ls tells which there are.")],
    expression: Annotated[list[str] | None, typer.Argument(metavar="[FILTER...]", help="A pcap-filter(7).")] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", parser=whole_number(1), metavar="N", help="End after N packets.")
    ] = None,
    duration: Annotated[
        float, typer.Option("-a", "--duration", parser=some_seconds, metavar="SECONDS", help="End after this time.")
    ] = _DURATION_S,
    join: Annotated[str | None, typer.Option(metavar="GROUP", help="Share a descriptor with all who name it.")] = None,
    buffer_size: Annotated[str | None, typer.Option(metavar="S", help="Size of a buffer, such as 8M.")] = None,
    wait: Annotated[Wait, typer.Option(help="Sleep for packets, or look for them all the time.")] = "sleep",
    immediate: Annotated[
        bool, typer.Option("--immediate-mode/--no-immediate-mode", help="Hand over each at once.")
    ] = True,
    json: Annotated[bool, Json] = False,
    plot: Annotated[str | None, typer.Option(metavar="FILE.png", help="Draw latency by percentile.")] = None,
    run_dir: Annotated[str | None, RunDir] = None,
) -> None:
    """Measure how long packets take from their producer's stamp, the kernel's for live ones, to a reader."""
    if plot is not None:
        check_plot(plot)
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
    report = Report(name, measured)
    if json:
        report.print_json()
    else:
        report.print_table()
    if plot is not None:
        report.plot(plot)
    if measured.ended_by == "evicted":
        raise ZbufError(f"{name} took this reader off: it was too slow for others, or is not allowed any more")


def _measured(reader: Reader, count: int | None, duration_s: float) -> Measured:
    measuring = Measuring(reader, count, duration_s)
    sys.stderr.write(f"zbuf: measuring {reader.name} for {duration_s:g} s at most\n")
    with Progress(lambda: f"{reader.name}: {measuring.packets:,} packets"):
        measured = measuring.run()
    if not measured.packets:
        raise ZbufError(
            f"no packets came from {reader.name!r} in {measured.seconds:.1f} s: zbuf stats {reader.name} tells why"
        )
    if measured.ended_by == "producer died":
        sys.stderr.write("zbuf: the producer died; everything that it had appended is here\n")
    if measured.latencies.later_than_now:
        sys.stderr.write(
            f"zbuf: {measured.latencies.later_than_now} packets have a time later than their arrival: "
            "the clocks differ; they count as 1 ns\n"
        )
    return measured
