"""zbuf: the command of the consumer side."""

import sys
import time
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from zbuf.consumer.client import Reader
from zbuf.consumer.dump.dump import Dump, Lines, PcapngFile
from zbuf.consumer.extcap.command import TOLERANT, extcap
from zbuf.consumer.listing import ls, stats
from zbuf.consumer.measure.command import measure
from zbuf.consumer.opening import connect
from zbuf.consumer.salvage import list_remains, salvage_to_files
from zbuf.consumer.top.command import top
from zbuf.shared.commandline import (
    Json,
    RunDir,
    make_app,
    parse_size,
    run,
    seconds,
    whole_number,
)
from zbuf.shared.control import Ledger
from zbuf.shared.errors import ProducerNotFound, ZbufError
from zbuf.shared.layout import MAX_CAPLEN
from zbuf.shared.progress import Progress

app = make_app("zbuf", "Read packets from a capture that a zbuf producer publishes, and see how it does.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The producer's name; zbuf ls tells which there are.")]

_RETRY_S = 0.05


@app.command()
def dump(
    name: Name,
    expression: Annotated[list[str] | None, typer.Argument(metavar="[FILTER...]", help="A pcap-filter(7).")] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    count: Annotated[
        int | None, typer.Option("-c", parser=whole_number(1), metavar="N", help="End after N packets.")
    ] = None,
    snaplen: Annotated[
        int,
        typer.Option(
            "-s",
            "--snapshot-length",
            parser=whole_number(0, MAX_CAPLEN),
            metavar="SNAPLEN",
            help="Bytes of each packet.",
        ),
    ] = MAX_CAPLEN,
    join: Annotated[str | None, typer.Option(metavar="GROUP", help="Share a descriptor with all who name it.")] = None,
    buffer_size: Annotated[str | None, typer.Option(metavar="S", help="Size of a buffer, such as 8M.")] = None,
    immediate: Annotated[bool, typer.Option("--immediate-mode", help="Hand over each packet at once.")] = False,
    wait_producer: Annotated[float, typer.Option(parser=seconds, metavar="SECONDS", help="Wait for it to start.")] = 0,
    run_dir: Annotated[str | None, RunDir] = None,
) -> None:
    """Dump packets to a pcapng file, or print a line for each, until the producer ends."""

    def open_reader() -> Reader:
        return connect(
            name,
            filter=" ".join(expression or []),
            join=join,
            snaplen=snaplen or MAX_CAPLEN,
            buffer_size=None if buffer_size is None else parse_size("--buffer-size", buffer_size),
            immediate=immediate,
            run_dir=run_dir,
        )

    with _retried(open_reader, wait_producer) as reader:
        dumped = Dump(reader, count)
        sys.stderr.write(f"zbuf: reading {name}, link-type {reader.linktype}, snapshot length {reader.snaplen} bytes\n")
        output = Lines(reader) if write is None else PcapngFile(write, reader)
        with Progress(lambda: f"{name}: {dumped.captured:,} packets", shown=write is not None):
            ledger = dumped.run(output)
        if reader.end_reason == "producer died":
            sys.stderr.write("zbuf: the producer died; everything that it had appended is here\n")
        _print_counts(dumped.captured, ledger)
        if reader.end_reason == "evicted":
            raise ZbufError(f"{name} took this reader off: it was too slow for others, or is not allowed any more")


def _print_counts(captured: int, ledger: Ledger) -> None:
    """Tcpdump's closing counts."""
    sys.stderr.write(
        f"{captured} packets captured\n"
        f"{ledger.received} packets received by filter\n"
        f"{ledger.dropped} packets dropped by zbuf\n"
    )


def _retried(open_reader: Callable[[], Reader], seconds: float) -> Reader:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return open_reader()
        except ProducerNotFound:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_S)


app.command()(ls)
app.command()(stats)
app.command()(top)


@app.command()
def salvage(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The killed producer's; none lists them.")] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    descriptor: Annotated[
        int | None, typer.Option(parser=whole_number(0), metavar="N", help="Of several descriptors, this one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove segments that were written.")] = False,
    json: Annotated[bool, Json] = False,
) -> None:
    """Write what a killed producer's readers had not acknowledged; of several descriptors, a file for each."""
    if name is None:
        if write is not None or descriptor is not None or remove:
            raise typer.BadParameter("say whose packets to salvage: zbuf salvage lists the names")
        list_remains(json=json)
        return
    if write is None:
        raise typer.BadParameter(f"say where to write what is left of {name!r}: -w FILE")
    if remove and write == "-":
        raise typer.BadParameter("--remove needs a file: nobody can tell what became of standard output")
    salvage_to_files(name, write, descriptor=descriptor, remove=remove, json=json)


app.command(context_settings=TOLERANT)(extcap)
app.command()(measure)


def main() -> NoReturn:
    """The entry point of zbuf."""
    run(app, "zbuf")
