"""zbuf dump."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from zbuf.consumer.reading.connection import wait_for_producer
from zbuf.consumer.reading.options import Options
from zbuf.consumer.reading.reader import Reader, open_reader
from zbuf.consumer.tools.dump.criteria import make_plan
from zbuf.consumer.tools.dump.dump import Dump, Output
from zbuf.consumer.tools.dump.savefile import Compression
from zbuf.consumer.tools.dump.style import Style
from zbuf.consumer.tools.dump.target import Target
from zbuf.consumer.tools.dump.warned import Warnings
from zbuf.consumer.tools.words import check_end, named_or_only
from zbuf.shared.cli import privileges
from zbuf.shared.cli.options import (
    BufferSize,
    Join,
    RunDir,
    complete_producer,
    parse_size,
    seconds,
    takes,
    whole_number,
)
from zbuf.shared.cli.progress import progress
from zbuf.shared.control.settings import Direction
from zbuf.shared.errors import ZbufError
from zbuf.shared.memory.layout import MAX_CAPLEN
from zbuf.shared.names import linktypes_of, printable

if TYPE_CHECKING:
    from zbuf.consumer.tools.dump.saved import Saved

_READY_S = 60.0
_FEW = 100


@takes(Style)
def dump(
    style: dict[str, Any],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME [FILTER...]]",
            help="The producer, unless -r is given [the only one that runs]; then a pcap-filter(7).",
            autocompletion=complete_producer,
        ),
    ] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    classic: Annotated[
        bool, typer.Option("-P", help="Write classic pcap, not pcapng: one link type, no interfaces, no comments.")
    ] = False,
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
    postrotate: Annotated[
        str | None, typer.Option("-z", metavar="COMMAND", help="Run COMMAND FILE for each file that is whole.")
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
    """Print packets as tcpdump does, or write them to capture files, until the producer ends.

    Where tcpdump is installed it does the printing, and follows the options from -n to -T. Elsewhere zbuf prints lines
    like those of tcpdump -n. The first SIGINT, SIGTERM or SIGHUP ends the dump in good order. SIGUSR1 prints counts,
    SIGUSR2 writes what is buffered.
    """
    plan = make_plan(
        write,
        autostop=autostop or [],
        ring=ring or [],
        rotate_size=rotate_size,
        rotate_seconds=rotate_seconds,
        files=files,
        clobber=not no_clobber,
    )
    target = Target(write, plan, compress, not no_clobber, classic, postrotate)
    target.check()
    name, expression = _name_and_filter(words or [], read, run_dir)
    prompt = write is None and read is None and join is None  # lines appear at once, and a group has its own settings
    options = Options(
        filter=expression,
        join=join,
        snaplen=snaplen or MAX_CAPLEN,
        buffer_size=None if buffer_size is None else parse_size("--buffer-size", buffer_size),
        immediate=immediate or packet_buffered or prompt or _ends_soon(count, read, join),
        direction=direction,
    )
    options.check()
    open_output = _prepare(target, Style(**style), user)
    warned = Warnings()
    with _source(name, read, run_dir, user) as source, source.open_reader(options, wait_producer) as reader:
        if user is not None:
            privileges.drop(user)
        packets = min((one for one in (count, plan.stop_packets) if one is not None), default=None)
        dumping = Dump(reader, packets, plan.stop_seconds)  # from here on, a signal ends it in good order
        sys.stderr.write(
            f"zbuf: reading {printable(read or name)}, link-type {linktypes_of(reader.linktypes)}, "
            f"snapshot length {reader.snaplen} bytes\n"
        )
        warned.tell(reader)
        _dump(dumping, reader, open_output(reader), counted=write is not None)
        warned.tell(reader)
        source.finish(reader)


def _name_and_filter(words: list[str], read: str | None, run_dir: str | None) -> tuple[str, str]:
    if read is not None:
        return "", " ".join(words)
    if not words:
        return named_or_only(None, run_dir), ""
    return words[0], " ".join(words[1:])


def _prepare(target: Target, style: Style, user: str | None) -> Callable[[Reader], Output]:
    """Try the output, import what it needs, and return what makes it: imports may fail once rights are given up."""
    if target.path is not None:
        target.try_first(user)
        return target.open
    from zbuf.consumer.tools.dump.lines import Lines

    return lambda reader: Lines(reader, style)


def _ends_soon(count: int | None, read: str | None, join: str | None) -> bool:
    """Whether a dump ends after so few packets that nobody should wait for a buffer to be full.

    (The packets of a file are all there, and a group has settings of its own.)
    """
    return count is not None and count <= _FEW and read is None and join is None


def _dump(dumping: Dump, reader: Reader, output: Output, *, counted: bool) -> None:
    with contextlib.closing(output), progress(lambda: f"{reader.name}: {output.packets:,} packets", shown=counted):
        try:
            account = dumping.run(output)
        except ZbufError:
            sys.stderr.write(dumping.account().counts(output.packets))
            raise
    sys.stderr.write(account.counts(output.packets))
    check_end(reader.name, reader.end_reason)


# ---- where packets come from ----------------------------------------------------------------------------------------


class _Source:
    """A running producer, or one that replays a file to this dump alone."""

    def __init__(self, name: str, run_dir: str | None, saved: "Saved | None") -> None:
        self.name = name
        self.run_dir = run_dir
        self._saved = saved
        self._whom = f"producer {name!r} to start" if saved is None else "the packets of the file"

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
        from zbuf.consumer.tools.dump.saved import saved_capture

        with saved_capture(read, user) as saved:
            yield _Source(saved.name, saved.run_dir, saved)
