"""System calls per packet, of both sides, while they are busy.

Counted: strace -c of the whole life of each process, with all its threads, divided by the packets: ``zbufd replay
--lossless`` with a reader that iterates in Python, and with ``zbuf dump -w /dev/null``, which makes one write for each
buffer. That count has the start and the end of Python in it, some ten thousand calls. So the busy phase, which the
target is for, is told by two such runs, with more loops and with fewer: the additional calls by the additional packets.

There is no peer. strace slows system calls down, and nothing else.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.captures import Capture
from bench.iterate import iterate
from bench.measure import Row, Session
from bench.stage import BenchError, Running, Stage

_PACKETS = 20_000_000
_FEWER = 4
_TARGET = 0.001

Starter = Callable[[Stage, Sequence[str]], Running]
"""Starts a reader, under the program given."""


def measure(session: Session) -> list[Row]:
    """A row for each process, with both readers."""
    missing = _missing()
    if missing:
        return [Row("syscalls", missing, target=f"< {_TARGET:g}")]
    readers = {"Python": _start_python, "dump": _start_dump}
    return [row for name, start in readers.items() for row in _measure_reader(session, name, start)]


def _missing() -> str:
    for command in (Path("strace"), _command("zbufd"), _command("zbuf")):
        if shutil.which(command) is None:
            return f"{command} is not there: install it"
    return ""


def _measure_reader(session: Session, name: str, start: Starter) -> list[Row]:
    capture = session.capture
    more = capture.loops(_PACKETS)
    fewer = -(-more // _FEWER)
    packets = [loops * capture.packets for loops in (more, fewer)]
    session.progress(f"system calls: zbufd and {name}")
    runs = [_run(capture, loops, start) for loops in (more, fewer)]
    sides = (f"zbufd to {name}", name)
    return [_row(side, calls, packets) for side, calls in zip(sides, zip(*runs, strict=True), strict=True)]


def _row(side: str, calls: Sequence[int], packets: Sequence[int]) -> Row:
    whole, busy = calls[0] / packets[0], (calls[0] - calls[1]) / (packets[0] - packets[1])
    return Row(
        f"syscalls, {side}",
        f"{max(busy, 0):.6f}",
        f"(whole run {whole:.6f})",
        target=f"< {_TARGET:g}",
        met=busy < _TARGET,
        data={"calls": calls, "packets": packets, "whole": whole, "busy": busy, "target": _TARGET},
    )


def _run(capture: Capture, loops: int, start: Starter) -> tuple[int, int]:
    """The system calls of the producer and the reader."""
    with Stage() as stage:
        counts = [stage.directory / "producer.calls", stage.directory / "reader.calls"]
        place = ["--name", stage.name, "--run-dir", str(stage.directory)]
        replay = [str(_command("zbufd")), "replay", capture.path, *place, "--lossless", "--wait-readers", "1"]
        replaying = stage.start([*_strace(counts[0]), *replay, "--loop", str(loops)])
        reading = start(stage, _strace(counts[1]))
        replaying.output()
        reading.output()
        return _calls(counts[0]), _calls(counts[1])


def _start_python(stage: Stage, under: Sequence[str]) -> Running:
    return stage.call(iterate, under=under, **stage.place)


def _start_dump(stage: Stage, under: Sequence[str]) -> Running:
    dump = [str(_command("zbuf")), "dump", stage.name, "-w", "/dev/null", "--wait-producer", "60"]
    return stage.start([*under, *dump, "--run-dir", str(stage.directory)])


def _strace(counts: Path) -> list[str]:
    return ["strace", "-f", "-c", "-o", str(counts)]


def _command(name: str) -> Path:
    """The command as it is installed beside this Python."""
    return Path(sys.executable).with_name(name)


def _calls(counts: Path) -> int:
    """The total in the column "calls" of strace's summary; numbers end where the heading does."""
    lines = counts.read_text().splitlines()
    if not lines or "calls" not in lines[0]:
        raise BenchError(f"strace counted nothing: {lines[:1]}")
    return int(lines[-1][: lines[0].index("calls") + len("calls")].split()[-1])
