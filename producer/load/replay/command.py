"""zbufd replay."""

import contextlib
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, TypeVar

import typer

from zbuf.producer.compiling import prepare
from zbuf.producer.load.checks import Junit, MaxLag, check_writable, tell_failures, write_junit
from zbuf.producer.load.damage import warn
from zbuf.producer.load.replay.measured import Measured
from zbuf.producer.load.replay.page import write_page
from zbuf.producer.load.replay.standing import Standing
from zbuf.producer.load.replay.stepping import step
from zbuf.producer.load.schedule import DEFAULT_MAX_LAG_MS, FASTEST, Ramp, Schedule, Stamp, parse_rate
from zbuf.producer.producer import Producer
from zbuf.producer.serving.access import group_id
from zbuf.producer.serving.waiting import DEFAULT_LINGER_S
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.producer.sources.python import ScapySource
from zbuf.shared.cli import privileges
from zbuf.shared.cli.claiming import claim
from zbuf.shared.cli.options import (
    Json,
    Latency,
    RunDir,
    parse_size,
    permissions,
    seconds,
    some_seconds,
    whole_number,
)
from zbuf.shared.cli.plot import check_plot
from zbuf.shared.cli.process import end_with, interrupt_on, on_end, raise_descriptor_limit
from zbuf.shared.cli.progress import progress
from zbuf.shared.control.rundir import run_directory
from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.segment import check_space
from zbuf.shared.names import linktypes_of, name_from_path, printable

T = TypeVar("T")

_BURST_MAX = 10**9


def _parsed(parse: Callable[[str], T]) -> Callable[[str | T], T]:
    """Make a parser of an option's text; a value that `parse` refuses is a usage error."""

    def parse_option(text: str | T) -> T:
        if not isinstance(text, str):
            return text  # the default, which needs no parsing
        try:
            return parse(text)
        except ValueRefused as error:
            raise typer.BadParameter(str(error)) from None

    return parse_option


def _rate(kind: str) -> Callable[[str | Fraction], Fraction]:
    return _parsed(lambda text: parse_rate(text, most=FASTEST[kind]))


class FileEngine(StrEnum):
    """What reads the files."""

    PCAP = "pcap"
    SCAPY = "scapy"


def replay(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Capture files, also compressed; - is stdin.")],
    name: Annotated[
        str | None, typer.Option(metavar="N", help="What readers connect to [the first file's stem].")
    ] = None,
    engine: Annotated[FileEngine, typer.Option(help="What reads the files.")] = FileEngine.PCAP,
    pps: Annotated[
        Fraction | None, typer.Option("--pps", "-p", parser=_rate("pps"), metavar="N", help="Packets per second.")
    ] = None,
    mbps: Annotated[
        Fraction | None, typer.Option("--mbps", "-M", parser=_rate("mbps"), metavar="N", help="Megabits per second.")
    ] = None,
    multiplier: Annotated[
        Fraction | None,
        typer.Option(
            "--multiplier",
            "-x",
            parser=_rate("multiplier"),
            metavar="X",
            help="X times as fast as recorded; 1 is as recorded.",
        ),
    ] = None,
    ramp: Annotated[
        Ramp | None,
        typer.Option(
            parser=_parsed(Ramp.parse),
            metavar="FROM:TO:SECONDS",
            help="A rate that grows or falls, in packets per second.",
        ),
    ] = None,
    topspeed: Annotated[
        bool, typer.Option("--topspeed", "-t", help="As fast as possible; this is the default.")
    ] = False,
    oneatatime: Annotated[
        bool, typer.Option("--oneatatime", "-o", help="Send each packet when you press Enter.")
    ] = False,
    burst: Annotated[
        int, typer.Option(parser=whole_number(1, _BURST_MAX), metavar="N", help="Send N packets at a time.")
    ] = 1,
    max_gap: Annotated[
        float | None,
        typer.Option(parser=some_seconds, metavar="SECONDS", help="With -x, the longest wait between two packets."),
    ] = None,
    stamp: Annotated[
        Stamp | None,
        typer.Option(
            help="Times of packets: the file's, or those of the replay [file; now with --latency].",
            show_default=False,
        ),
    ] = None,
    loop: Annotated[
        int | None,
        typer.Option(
            "--loop",
            "-l",
            parser=whole_number(0),
            metavar="N",
            help="How often to replay; 0 is for ever [1; 0 with --duration].",
            show_default=False,
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge several files in the order of their times.")] = False,
    unique_ip: Annotated[bool, typer.Option("--unique-ip", help="Use other IP addresses in each loop.")] = False,
    duration: Annotated[
        float | None, typer.Option(parser=some_seconds, metavar="SECONDS", help="End after SECONDS.")
    ] = None,
    wait_readers: Annotated[
        int, typer.Option(parser=whole_number(0), metavar="N", help="Wait for N readers before the start.")
    ] = 0,
    lossless: Annotated[bool, typer.Option("--lossless", help="Wait for readers rather than drop packets.")] = False,
    buffer_size: Annotated[str, typer.Option(metavar="S", help="Size of a buffer, for readers that give none.")] = "2M",
    user: Annotated[
        str | None, typer.Option("-Z", "--user", metavar="USER", help="Become USER before files are opened.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="GROUP", help="Let the members of GROUP read.")] = None,
    mode: Annotated[
        int | None,
        typer.Option(
            parser=permissions, metavar="MODE", help="Permissions of the control socket [0600; 0660 with --group]."
        ),
    ] = None,
    preload_limit: Annotated[str, typer.Option(metavar="S", help="Stream larger files rather than load them.")] = "1G",
    linger: Annotated[
        float,
        typer.Option(parser=seconds, metavar="SECONDS", help="Wait so long at the end for slow readers."),
    ] = DEFAULT_LINGER_S,
    limit: Annotated[int | None, typer.Option(parser=whole_number(1), metavar="N", help="End after N packets.")] = None,
    max_lag: MaxLag = None,
    fail_if_lost: Annotated[
        bool, typer.Option("--fail-if-lost", help="Exit with 1 if a reader lost packets, or if there was none.")
    ] = False,
    junit: Junit = None,
    latency: Latency = False,
    run_dir: RunDir = None,
    json: Json = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE.html", help="Also write the report as a page with plots.")
    ] = None,
    parent: Annotated[int | None, typer.Option("--end-with", metavar="PID", hidden=True)] = None,
) -> None:
    """Replay capture files to the readers, at top speed or at a rate, and report what became of the packets."""
    schedule = _schedule(
        pps=pps,
        mbps=mbps,
        multiplier=multiplier,
        ramp=ramp,
        one_at_a_time=oneatatime,
        burst=burst,
        duration_s=duration,
        max_gap_s=max_gap,
        stamp=stamp or ("now" if latency else "file"),
        max_lag_ms=DEFAULT_MAX_LAG_MS if max_lag is None else max_lag,
        limit=limit,
    )
    if latency and schedule.stamp == "file":
        raise typer.BadParameter("--latency needs packets with the time of the replay: leave out --stamp file")
    if topspeed and str(schedule) != "top speed":
        raise typer.BadParameter(f"--topspeed and {schedule} are two speeds: give one")
    if oneatatime and "-" in files:
        raise typer.BadParameter("--oneatatime reads your keys from standard input: save the capture to a file")
    gid = None if group is None else group_id(group)
    socket_mode = mode if mode is not None else 0o600 if gid is None else 0o660
    called = name or name_from_path(files[0])
    raise_descriptor_limit()
    prepare()
    with contextlib.ExitStack() as undo:
        place = None
        if user is not None:
            interrupt_on(signal.SIGTERM, signal.SIGHUP)  # or its directory would stay
            place = claim(run_directory(run_dir), called, socket_mode=socket_mode, user=user, gid=gid)
            undo.callback(place.release)
            privileges.drop(user, gid)
        if parent is not None:
            end_with(parent)
        if report is not None:
            check_plot(report, "--report")
        if junit is not None:
            check_writable(junit)
        loops = loop if loop is not None else 0 if duration is not None else 1
        if unique_ip and loops == 1:
            raise typer.BadParameter("--unique-ip changes addresses from the second loop on: give --loop or --duration")
        buffer_bytes = parse_size("--buffer-size", buffer_size)
        check_space(buffer_bytes)
        if engine is FileEngine.SCAPY and (merge or unique_ip):
            raise typer.BadParameter(
                "--merge and --unique-ip don't work with --engine scapy: leave out one or the other"
            )
        source = _open_source(files, engine, parse_size("--preload-limit", preload_limit), merge, unique_ip, loops == 1)
        ending = _Ending()
        producer = Producer(
            called,
            interfaces=source.interfaces,
            lossless=lossless,
            buffer_size=buffer_bytes,
            run_dir=run_dir,
            socket_mode=socket_mode,
            gid=gid,
            place=place,
            linger_s=linger,
        )
        undo.pop_all()
    ending.watch(producer)
    linktypes = linktypes_of(one.linktype for one in source.interfaces)
    sys.stderr.write(f"zbufd: {producer.name} ready in {printable(str(producer.run_dir))}, link-type {linktypes}\n")
    known = len(source.warnings)
    warn(source.warnings)
    measured = Measured(want_latency=latency, want_rates=report is not None)
    with producer:
        _replay(producer, source, schedule, loops, wait_readers, measured, lossless=lossless)
    made = measured.report(files, schedule, producer.final_stats(), source)
    warn(source.warnings[known:])
    if json:
        sys.stdout.write(made.as_json() + "\n")
    else:
        made.print()
    if report is not None:
        write_page(made, report)
    checks = made.checks(fail_if_lost=fail_if_lost, fail_if_late=max_lag is not None)
    if junit is not None:
        write_junit(junit, "zbufd replay", made.seconds, checks, made.as_json())
    found = source.sizes.packets if isinstance(source, FileSource) else producer.offered
    nothing = not found and not producer.stopped
    if nothing and not source.damage:
        sys.stderr.write(f"zbufd: no packets in {printable(', '.join(files))}\n")
    if tell_failures(checks[1:]) or source.damage or nothing:  # damage was told above
        raise typer.Exit(1)


def _schedule(**options: Any) -> Schedule:
    try:
        return Schedule(**options)
    except ValueRefused as error:
        raise typer.BadParameter(str(error)) from None


def _open_source(
    files: list[str], engine: FileEngine, preload_limit: int, merge: bool, unique_ip: bool, once: bool
) -> FileSource | ScapySource:
    if engine is FileEngine.SCAPY:
        return ScapySource(files)
    loaded = [0, 0]

    def note(packets: int, size: int) -> None:
        loaded[:] = packets, size

    with progress(lambda: f"loading: {loaded[0]:,} packets, {loaded[1] / 1e6:,.0f} MB"):
        return FileSource(files, preload_limit, note, merge=merge, unique_ip=unique_ip, once=once)


def _replay(
    producer: Producer,
    source: FileSource | ScapySource,
    schedule: Schedule,
    loops: int,
    wait_readers: int,
    measured: Measured,
    *,
    lossless: bool,
) -> None:
    if wait_readers:
        with progress(lambda: f"{producer.name}: waiting for {wait_readers} readers"):
            producer.wait_readers(wait_readers)
    pace = schedule.pace()
    if pace is not None and schedule.one_at_a_time:
        step(pace)

    standing = Standing(producer)

    def describe() -> str:
        wait_s = 0.0 if pace is None else pace.next_in_s()
        so_far = f"{producer.name}: {producer.offered:,} packets, {producer.offered / measured.age_s:,.0f} packets/s"
        if wait_s >= 1:
            return f"{so_far}, the next one in {wait_s:,.0f} s"
        return so_far + standing.whom() if lossless else so_far

    with measured.during(producer, pace), progress(describe, shown=not schedule.one_at_a_time):
        if not producer.stopped:
            producer.publish(source, loops=loops, pace=pace)


class _Ending:
    """Ends the replay in good order on SIGINT or SIGTERM, even if the signal comes before there is a producer."""

    def __init__(self) -> None:
        self._producer: Producer | None = None
        self._stopped = False
        on_end(self._stop)

    def watch(self, producer: Producer) -> None:
        """Stop this producer when a signal comes; at once, if one has come already."""
        self._producer = producer
        if self._stopped:
            producer.stop()

    def _stop(self) -> None:
        self._stopped = True
        if self._producer is not None:
            self._producer.stop()
