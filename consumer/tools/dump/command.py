"""zbuf dump."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from zbuf.consumer.reading.connection import Connection, wait_for_producer
from zbuf.consumer.reading.options import Options
from zbuf.consumer.reading.reader import Reader, open_reader
from zbuf.consumer.tools.dump.criteria import Plan, make_plan
from zbuf.consumer.tools.dump.dump import Dump, Output, counts
from zbuf.consumer.tools.dump.lines import Lines, load_dissectors
from zbuf.consumer.tools.dump.saved import Saved, saved_capture
from zbuf.consumer.tools.dump.savefile import Compression, Savefile
from zbuf.consumer.tools.dump.savefiles import Savefiles
from zbuf.consumer.tools.dump.trailer import final_ledger
from zbuf.consumer.tools.words import check_end, named_or_only
from zbuf.shared.cli import privileges
from zbuf.shared.cli.options import BufferSize, Join, RunDir, complete_producer, parse_size, seconds, whole_number
from zbuf.shared.cli.progress import progress
from zbuf.shared.control.settings import Direction
from zbuf.shared.errors import ZbufError
from zbuf.shared.memory.layout import MAX_CAPLEN
from zbuf.shared.names import linktypes_of, printable

_READY_S = 60.0


def dump(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME [FILTER...]]",
            help="The producer, unless -r is given [the only one that runs]; then a pcap-filter(7).",
            autocompletion=complete_producer,
        ),
    ] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    read: Annotated[
        str | None, typer.Option("-r", metavar="FILE", help="Read a capture file in place of a producer; - is stdin.")
    ] = None,
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
            help="Bytes to keep of each packet.",
        ),
    ] = MAX_CAPLEN,
    direction: Annotated[
        Direction, typer.Option("-Q", "--direction", help="Which packets: incoming, outgoing, or both.")
    ] = "inout",
    numeric: Annotated[bool, typer.Option("-n", help="Print numbers, not names; this is always so.")] = False,
    packet_buffered: Annotated[
        bool, typer.Option("-U", "--packet-buffered", help="Write each packet at once, as --immediate-mode.")
    ] = False,
    rotate_size: Annotated[
        str | None, typer.Option("-C", metavar="SIZE", help="Begin a new file after SIZE million bytes.")
    ] = None,
    rotate_seconds: Annotated[
        int | None,
        typer.Option(
            "-G",
            parser=whole_number(1),
            metavar="SECONDS",
            help="Begin a new file after SECONDS; FILE is a strftime(3) format.",
        ),
    ] = None,
    files: Annotated[
        int | None,
        typer.Option(
            "-W", parser=whole_number(1), metavar="N", help="With -C, keep a ring of N files; with -G, end after N."
        ),
    ] = None,
    ring: Annotated[
        list[str] | None,
        typer.Option(
            "-b",
            "--ring-buffer",
            metavar="NAME:VALUE",
            help="Begin a new file at filesize:KB, duration:S, interval:S or packets:N; keep files:N. Repeatable.",
        ),
    ] = None,
    autostop: Annotated[
        list[str] | None,
        typer.Option(
            "-a",
            "--autostop",
            metavar="NAME:VALUE",
            help="End at duration:S, filesize:KB, packets:N or files:N. Repeatable.",
        ),
    ] = None,
    compress: Annotated[Compression | None, typer.Option("--compress", help="Compress what is written.")] = None,
    no_clobber: Annotated[bool, typer.Option("--no-clobber", help="Never overwrite a file.")] = False,
    user: Annotated[
        str | None,
        typer.Option("-Z", "--relinquish-privileges", metavar="USER", help="Become USER before files are opened."),
    ] = None,
    join: Join = None,
    buffer_size: BufferSize = None,
    immediate: Annotated[bool, typer.Option("--immediate-mode", help="Hand over each packet at once.")] = False,
    wait_producer: Annotated[
        float, typer.Option(parser=seconds, metavar="SECONDS", help="Wait so long for the producer to start.")
    ] = 0,
    run_dir: RunDir = None,
) -> None:
    """Dump packets to pcapng files, or print a line for each, until the producer ends.

    The first SIGINT, SIGTERM or SIGHUP ends it in good order. SIGUSR1 prints counts, SIGUSR2 writes what is buffered.
    """
    del numeric
    plan = make_plan(
        write,
        autostop=autostop or [],
        ring=ring or [],
        rotate_size=rotate_size,
        rotate_seconds=rotate_seconds,
        files=files,
        clobber=not no_clobber,
    )
    if write is None and (compress is not None or no_clobber):
        raise typer.BadParameter("--compress and --no-clobber need a file to write: give -w FILE")
    name, expression = _name_and_filter(words or [], read, run_dir)
    buffer_bytes = None if buffer_size is None else parse_size("--buffer-size", buffer_size)
    options = Options(
        filter=expression,
        join=join,
        snaplen=snaplen or MAX_CAPLEN,
        buffer_size=buffer_bytes,
        immediate=immediate or packet_buffered,
        direction=direction,
    )
    options.check()
    with _source(name, read, run_dir, user) as source:
        if write is None:
            source.expect(wait_producer)
            load_dissectors()
        with source.open_reader(options, wait_producer) as reader:
            if user is not None:
                privileges.drop(user)
            packets = min((one for one in (count, plan.stop_packets) if one is not None), default=None)
            dumping = Dump(reader, packets, plan.stop_seconds)
            sys.stderr.write(
                f"zbuf: reading {printable(read or name)}, link-type {linktypes_of(reader.linktypes)}, "
                f"snapshot length {reader.snaplen} bytes\n"
            )
            _dump(dumping, reader, plan, write is not None, compress, not no_clobber)
            source.finish(reader)


def _name_and_filter(words: list[str], read: str | None, run_dir: str | None) -> tuple[str, str]:
    if read is not None:
        return "", " ".join(words)
    if not words:
        return named_or_only(None, run_dir), ""
    return words[0], " ".join(words[1:])


def _dump(
    dumping: Dump, reader: Reader, plan: Plan, to_files: bool, compress: Compression | None, clobber: bool
) -> None:
    output = _output(reader, plan, compress, clobber) if to_files else Lines(reader)
    with contextlib.closing(output), progress(lambda: f"{reader.name}: {output.packets:,} packets", shown=to_files):
        try:
            ledger = dumping.run(output)
        except ZbufError:
            sys.stderr.write(counts(output.packets, final_ledger(reader)))
            raise
    sys.stderr.write(counts(output.packets, ledger))
    check_end(reader.name, reader.end_reason)


def _output(reader: Reader, plan: Plan, compress: Compression | None, clobber: bool) -> Output:
    def open_file(path: str) -> Savefile:
        return Savefile(path, reader, compression=compress, clobber=clobber)

    def tell(path: str) -> None:
        if plan.several:
            sys.stderr.write(f"zbuf: writing {printable(path)}\n")

    return Savefiles(reader, open_file, plan.names, plan.limits, plan.keep, tell)


# ---- where packets come from ----------------------------------------------------------------------------------------


class _Source:
    """A running producer, or one that replays a file to this dump alone."""

    def __init__(self, name: str, run_dir: str | None, saved: Saved | None) -> None:
        self.name = name
        self.run_dir = run_dir
        self._saved = saved
        self._whom = f"producer {name!r} to start" if saved is None else "the packets of the file"

    def expect(self, wait_s: float) -> None:
        """Wait for a producer so long, so that what takes time is only begun if it runs; a replay is on its way."""
        if self._saved is None:
            wait_for_producer(lambda: Connection(self.name, self.run_dir), wait_s, whom=self._whom).close()

    def open_reader(self, options: Options, wait_s: float) -> Reader:
        """Connect to it as soon as it runs; a replay, which may fail instead, gets time to start."""
        wanted = msgspec.structs.replace(options, run_dir=self.run_dir)
        if self._saved is None:
            return wait_for_producer(lambda: open_reader(self.name, wanted), wait_s, whom=self._whom)
        check = self._saved.check
        return wait_for_producer(lambda: open_reader(self.name, wanted), max(wait_s, _READY_S), check, self._whom)

    def finish(self, reader: Reader) -> None:
        """Pass on a replay's warnings, or raise its error, after the last packet."""
        if self._saved is not None and reader.finished:
            reader.close()
            self._saved.finish()


@contextlib.contextmanager
def _source(name: str, read: str | None, run_dir: str | None, user: str | None) -> Iterator[_Source]:
    if read is None:
        yield _Source(name, run_dir, None)
    else:
        with saved_capture(read, user) as saved:
            yield _Source(saved.name, saved.run_dir, saved)
