"""System calls per packet, of both sides, while they are busy.

Counted: strace -c of the whole life of each process, with all its threads, divided by the packets: ``zbufd replay
--lossless`` with a reader that iterates in Python, and with ``zbuf dump -w /dev/null``, which makes one write for each
buffer. That count has the start and the end of Python in it, some ten thousand calls. The target is for the busy phase.
So there are two such runs, with more loops and with fewer; the additional calls are divided by the additional packets.

Four readers that walk every block's header are there for information, once each with a descriptor of its own, and once
all joined; on two processors they wait for each other. Their calls are counted together.

There is no peer. strace slows system calls down, and nothing else.
"""

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.captures import Capture
from bench.iterate import iterate
from bench.measure import Row, Session
from bench.ring import walk, walk_joined
from bench.stage import BenchError, Running, Stage

_PACKETS = 20_000_000
_FEWER = 4
_TARGET = 0.001

Starter = Callable[[Stage, Sequence[str]], Running]
"""Starts a reader, run by the program that is given."""


def measure(session: Session) -> list[Row]:
    """A row for each process, with both readers."""
    missing = _missing()
    if missing:
        return [Row("syscalls", missing, target=f"< {_TARGET:g}")]
    several = {"4 readers": [_start_private] * 4, "4 joined readers": [_start_joined] * 4}
    return [
        *_measure_readers(session, "Python", [_start_python], _TARGET),
        *_measure_readers(session, "dump", [_start_dump], _TARGET),
        *(row for name, starters in several.items() for row in _measure_readers(session, name, starters, None)),
    ]


def _missing() -> str:
    for command in (Path("strace"), _command("zbufd"), _command("zbuf")):
        if shutil.which(command) is None:
            return f"{command} is not there: install it"
    return ""


def _measure_readers(session: Session, name: str, starters: Sequence[Starter], target: float | None) -> list[Row]:
    capture = session.capture
    more = capture.loops(_PACKETS)
    fewer = -(-more // _FEWER)
    packets = [loops * capture.packets for loops in (more, fewer)]
    session.progress(f"system calls: zbufd and {name}")
    runs = [_run(capture, loops, starters) for loops in (more, fewer)]
    sides = (f"zbufd to {name}", name)
    return [_row(side, calls, packets, target) for side, calls in zip(sides, zip(*runs, strict=True), strict=True)]


def _row(side: str, calls: Sequence[int], packets: Sequence[int], target: float | None) -> Row:
    whole, busy = calls[0] / packets[0], (calls[0] - calls[1]) / (packets[0] - packets[1])
    return Row(
        f"syscalls, {side}",
        f"{max(busy, 0):.6f}",
        f"(whole run {whole:.6f})",
        target="" if target is None else f"< {target:g}",
        met=None if target is None else busy < target,
        data={"calls": calls, "packets": packets, "whole": whole, "busy": busy, "target": target},
    )


def _run(capture: Capture, loops: int, starters: Sequence[Starter]) -> tuple[int, int]:
    """The system calls of the producer, and of all readers."""
    with Stage() as stage:
        counts = [stage.directory / f"{number}.calls" for number in range(len(starters) + 1)]
        place = ["--name", stage.name, "--run-dir", str(stage.directory)]
        replay = [
            str(_command("zbufd")),
            "replay",
            capture.path,
            *place,
            "--lossless",
            "--wait-readers",
            str(len(starters)),
        ]
        replaying = stage.start([*_strace(counts[0]), *replay, "--loop", str(loops)])
        reading = [start(stage, _strace(path)) for start, path in zip(starters, counts[1:], strict=True)]
        for process in (replaying, *reading):
            process.output()
        return _calls(counts[0]), sum(map(_calls, counts[1:]))


def _start_python(stage: Stage, under: Sequence[str]) -> Running:
    return stage.call(iterate, under=under, **stage.place)


def _start_private(stage: Stage, under: Sequence[str]) -> Running:
    return stage.call(walk, under=under, **stage.place)


def _start_joined(stage: Stage, under: Sequence[str]) -> Running:
    return stage.call(walk_joined, under=under, **stage.place)


def _start_dump(stage: Stage, under: Sequence[str]) -> Running:
    dump = [str(_command("zbuf")), "dump", stage.name, "-w", "/dev/null", "--wait-producer", "60"]
    return stage.start([*under, *dump, "--run-dir", str(stage.directory)])


def _strace(counts: Path) -> list[str]:
    return ["strace", "-f", "-c", "-o", str(counts)]


def _command(name: str) -> Path:
    """The command that is installed beside this Python."""
    return Path(sys.executable).with_name(name)


def _calls(counts: Path) -> int:
    """The total in the column "calls" of strace's summary; numbers end where the heading does."""
    lines = counts.read_text().splitlines()
    if not lines or "calls" not in lines[0]:
        raise BenchError(f"strace counted nothing: {lines[:1]}")
    return int(lines[-1][: lines[0].index("calls") + len("calls")].split()[-1])
