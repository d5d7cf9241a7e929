"""zbufd: the command of the producer side."""

import signal
import sys
import time
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from zbuf.producer.capture import DEFAULT_LINGER_S
from zbuf.producer.daemon import raise_descriptor_limit
from zbuf.producer.daemon_cli import capture, check_config, interfaces
from zbuf.producer.packet_sources import ScapySource
from zbuf.producer.report import Report
from zbuf.producer.service import Producer
from zbuf.producer.sources import FileSource
from zbuf.shared.commandline import Json, RunDir, make_app, parse_size, run, seconds, whole_number
from zbuf.shared.progress import Progress
from zbuf.shared.rundir import name_from_path
from zbuf.shared.segment import check_space

app = make_app("zbufd", "Read packets, and publish them to any number of processes through shared memory.")
app.command()(capture)


class Engine(StrEnum):
    """Who reads the packets."""

    PCAP = "pcap"
    SCAPY = "scapy"


@app.command()
def replay(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Capture files, gzipped or not; - is stdin.")],
    name: Annotated[
        str | None, typer.Option(metavar="N", help="What readers connect to [the first file's stem].")
    ] = None,
    engine: Annotated[Engine, typer.Option(help="What reads the files.")] = Engine.PCAP,
    loop: Annotated[
        int, typer.Option("--loop", "-l", parser=whole_number(0), metavar="N", help="Times to replay; 0 for ever.")
    ] = 1,
    wait_readers: Annotated[
        int, typer.Option(parser=whole_number(0), metavar="N", help="Wait for N readers before the start.")
    ] = 0,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Wait for readers in place of dropping packets.")
    ] = False,
    buffer_size: Annotated[
        str, typer.Option(metavar="S", help="Size of a buffer, for readers that do not say.")
    ] = "2M",
    preload_limit: Annotated[
        str, typer.Option(metavar="S", help="Stream what is larger, in place of loading it.")
    ] = "1G",
    linger: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="SECONDS", help="How long to wait at the end for readers to take the rest."
        ),
    ] = DEFAULT_LINGER_S,
    run_dir: Annotated[str | None, RunDir] = None,
    json: Annotated[bool, Json] = False,
) -> None:
    """Replay capture files to the readers, at top speed, and report what became of the packets."""
    buffer_bytes = parse_size("--buffer-size", buffer_size)
    check_space(buffer_bytes)
    raise_descriptor_limit()
    source = _open_source(files, engine, parse_size("--preload-limit", preload_limit))
    signals = _Signals()
    producer = Producer(
        name or name_from_path(files[0]),
        linktype=source.linktype,
        interfaces=[interface.name for interface in source.interfaces],
        lossless=lossless,
        buffer_size=buffer_bytes,
        run_dir=run_dir,
        linger_s=None if lossless else linger,
    )
    signals.watch(producer)
    sys.stderr.write(f"zbufd: {producer.name} ready in {producer.run_dir}, link-type {source.linktype}\n")
    with producer:
        report = _replay(producer, source, loop, wait_readers)
    report = report.finished(producer.final_stats(), source.warnings)
    for warning in source.warnings:
        sys.stderr.write(f"zbufd: {warning}\n")
    if json:
        sys.stdout.write(report.as_json() + "\n")
    else:
        report.print()


app.command()(check_config)
app.command()(interfaces)


def _open_source(files: list[str], engine: Engine, preload_limit: int) -> FileSource | ScapySource:
    if engine is Engine.SCAPY:
        return ScapySource(files)
    loaded = [0, 0]

    def note(packets: int, size: int) -> None:
        loaded[:] = packets, size

    with Progress(lambda: f"loading: {loaded[0]:,} packets, {loaded[1] / 1e6:,.0f} MB"):
        return FileSource(files, preload_limit, note)


def _replay(producer: Producer, source: FileSource | ScapySource, loop: int, wait_readers: int) -> Report:
    if wait_readers:
        with Progress(lambda: f"{producer.name}: waiting for {wait_readers} readers"):
            producer.wait_readers(wait_readers)
    started = time.perf_counter()

    def describe() -> str:
        seconds = time.perf_counter() - started
        return f"{producer.name}: {producer.offered:,} packets, {producer.offered / seconds:,.0f} packets/s"

    with Progress(describe):
        packets = 0 if producer.stopped else producer.publish(source, loops=loop)
    return Report(packets, time.perf_counter() - started, producer.stats(), [])


class _Signals:
    """The first SIGINT or SIGTERM ends the replay in good order, the second at once."""

    def __init__(self) -> None:
        self._producer: Producer | None = None
        self._stopped = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def watch(self, producer: Producer) -> None:
        """Stop this producer, also for a signal that has come already."""
        self._producer = producer
        if self._stopped:
            producer.stop()

    def _stop(self, number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        self._stopped = True
        if self._producer is not None:
            self._producer.stop()


def main() -> NoReturn:
    """The entry point of zbufd."""
    run(app, "zbufd")
