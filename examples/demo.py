"""zbuf's main job: one capture file reaches three processes at once. `make demo` runs this.

A producer replays a capture at top speed, many times over, and loses nothing. One process counts with NumPy, one dumps
to a pcapng file, one iterates in plain Python. At the end the demo prints the numbers, and compares the dumped file
byte by byte with what went in.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import make_capture
import numpy
from rich.console import Console
from rich.table import Table

from zbuf import connect

NAME = "demo"
PASSES = 4000
BIN = Path(sys.executable).parent

# ---- the consumers -------------------------------------------------------------------------------------------------


def count_with_numpy(name: str) -> None:
    """Be a consumer that makes one NumPy array a buffer."""
    packets = 0
    with connect(name) as reader:
        for buffer in reader.buffers():
            if not packets:
                started = time.time()
            index = buffer.index()
            packets += len(index)
    print(json.dumps({"packets": packets, "started": started, "ended": time.time()}))


def iterate(name: str) -> None:
    """Be a consumer that takes one Python object a packet."""
    packets = octets = 0
    with connect(name) as reader:
        for packet in reader:
            if not packets:
                started = time.time()
            packets += 1
            octets += packet.caplen
    print(json.dumps({"packets": packets, "started": started, "ended": time.time()}))


# ---- the processes -------------------------------------------------------------------------------------------------


@dataclass
class Process:
    """One of the four processes, and the file with its system calls, if they can be traced."""

    what: str
    process: "subprocess.Popen[str]"
    trace: Path | None

    def wait(self) -> str:
        """Wait for its end, which must be a good one, and return its output."""
        output, errors = self.process.communicate()
        if self.process.returncode:
            sys.exit(f"{self.what} failed: {errors}")
        return output

    def wait_until_ready(self) -> None:
        """Wait until it says on stderr that it is ready."""
        assert self.process.stderr is not None  # noqa: S101  (it is a pipe)
        line = self.process.stderr.readline()
        if "ready" not in line:
            sys.exit(f"{self.what} failed: {line}{self.process.stderr.read()}")


class Demo:
    """The processes, in a folder that goes away with the demo."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.traced = _can_trace()

    def start(self, what: str, *command: object) -> Process:
        """Start one of the processes."""
        trace = self.folder / f"{what}.trace" if self.traced else None
        strace = ["strace", "-f", "-qq", "-ttt", "-o", str(trace)] if trace else []
        environment = {**os.environ, "ZBUF_RUN_DIR": str(self.folder)}
        process = subprocess.Popen(
            [*strace, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        return Process(what, process, trace)


def _can_trace() -> bool:
    """Whether strace is there, and may trace."""
    return bool(shutil.which("strace")) and not subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode


def system_calls(process: Process, started: float, ended: float) -> int | None:
    """The system calls that a process made, in all its threads, between two moments."""
    if process.trace is None:
        return None
    begun = re.compile(r"\d+ +(\d+\.\d+) (?!---|\+\+\+|<\.\.\.)")
    with process.trace.open() as lines:
        moments = (match[1] for match in map(begun.match, lines) if match)
        return sum(started <= float(moment) <= ended for moment in moments)


# ---- what went in --------------------------------------------------------------------------------------------------


def blocks_of(timed: list[tuple[int, bytes]]) -> bytes:
    """The packets as pcapng Enhanced Packet Blocks, made here and not by zbuf."""
    made = []
    for time_ns, data in timed:
        padded = data + bytes(-len(data) % 4)
        total = 32 + len(padded)
        head = struct.pack("<7I", 6, total, 0, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data))
        made.append(head + padded + struct.pack("<I", total))
    return b"".join(made)


def holds(path: Path, timed: list[tuple[int, bytes]], passes: int) -> bool:
    """Whether a pcapng file has these packets `passes` times, between its prologue and its statistics.

    Times go on from pass to pass: a pass begins one mean gap after the last packet of the pass before.
    """
    blocks = blocks_of(timed)
    words = numpy.frombuffer(bytearray(blocks), "<u4")  # a block is made of whole words
    times = numpy.array([time_ns for time_ns, _ in timed], "<u8")
    high = numpy.cumsum([0, *(8 + (len(data) + 3) // 4 for _, data in timed[:-1])]) + 3
    span = int(times.max() - times.min())
    step = numpy.uint64(span + max(1, span // (len(timed) - 1)))
    with path.open("rb") as file:
        _skip_prologue(file)
        for _ in range(passes):
            if file.read(len(blocks)) != words.tobytes():
                return False
            times += step
            words[high], words[high + 1] = times >> numpy.uint64(32), times & numpy.uint64(0xFFFFFFFF)
        return _block_types(file) == [5]


def _skip_prologue(file: IO[bytes]) -> None:
    for _ in range(2):  # a section header and an interface description
        _, total = struct.unpack("<II", file.read(8))
        file.seek(total - 8, 1)


def _block_types(file: IO[bytes]) -> list[int]:
    found = []
    while head := file.read(8):
        kind, total = struct.unpack("<II", head)
        file.seek(total - 8, 1)
        found.append(kind)
    return found


# ---- the story -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run it all; exit with 1 if anything is missing."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="zbuf-demo-") as folder:
        timed = make_capture.packets()
        capture, dumped = Path(folder, "demo.pcap"), Path(folder, "demo.pcapng")
        make_capture.write(str(capture), timed)
        console.print(
            f"{len(timed):,} packets (ARP, DNS, HTTP over TCP, ICMP, IPv6, VLAN, fragments), {PASSES:,} times over, "
            "to three processes"
        )
        report = run(Demo(Path(folder)), capture, dumped, console)
        intact = holds(dumped, timed, PASSES)
        verdict = "holds byte for byte what went in" if intact else "DIFFERS from what went in"
        console.print(f"the dumped file, {dumped.stat().st_size / 1e9:.2f} GB, {verdict}")
        complete = print_ledgers(console, report, len(timed) * PASSES)
    sys.exit(0 if intact and complete else 1)


def run(demo: Demo, capture: Path, dumped: Path, console: Console) -> dict[str, Any]:
    """Start the producer, then the consumers; print what they did, and return the producer's report."""
    replay = [BIN / "zbufd", "replay", capture, "--name", NAME, "--loop", PASSES, "--lossless", "--json"]
    producer = demo.start("producer", *replay, "--wait-readers", 3)
    producer.wait_until_ready()
    consumers = [
        demo.start("NumPy index", sys.executable, __file__, "numpy", NAME),
        demo.start("plain Python", sys.executable, __file__, "iterate", NAME),
        demo.start("dump to a file", BIN / "zbuf", "dump", NAME, "-w", dumped),
    ]
    with console.status("replaying"):
        outputs = [consumer.wait() for consumer in consumers]
        report: dict[str, Any] = json.loads(producer.wait())
    seen = [json.loads(output) for output in outputs[:2]]
    started, ended = min(one["started"] for one in seen), max(one["ended"] for one in seen)
    rows = [("producer", report["packets"], report["seconds"], system_calls(producer, started, ended))]
    for consumer, one in zip(consumers, [*seen, None], strict=True):
        packets = one["packets"] if one else report["packets"]
        rows.append((consumer.what, packets, ended - started, system_calls(consumer, started, ended)))
    print_rates(console, rows)
    return report


def print_rates(console: Console, rows: list[tuple[str, int, float, int | None]]) -> None:
    """Print a line for each process: packets, rate, system calls."""
    table = Table(box=None, pad_edge=False)
    for column in ("process", "packets", "seconds", "packets/s", "system calls", "per packet"):
        table.add_column(column, justify="left" if column == "process" else "right")
    for what, packets, seconds, calls in rows:
        counted = ("not counted", "-") if calls is None else (f"{calls:,}", f"{calls / packets:.6f}")
        table.add_row(what, f"{packets:,}", f"{seconds:.2f}", f"{packets / seconds:,.0f}", *counted)
    console.print(table)
    received = sum(packets / seconds for _, packets, seconds, _ in rows[1:])
    console.print(f"{received / 1e6:.1f} million packets/s received by the three together")
    if rows[0][3] is None:
        console.print("system calls are not counted: strace is missing, or may not trace here")


def print_ledgers(console: Console, report: dict[str, Any], expected: int) -> bool:
    """Print each descriptor's ledger; returns whether all of them add up, with every packet delivered."""
    good = len(report["descriptors"]) == 3
    for one in report["descriptors"]:
        adds_up = (
            one["received"] == expected == one["filtered"] + one["accepted"]
            and one["accepted"] == one["delivered"] + one["dropped"] + one["abandoned"] + one["buffered"]
        )
        good &= adds_up and one["delivered"] == expected
        counts = ", ".join(f"{one[name]:,} {name}" for name in ("received", "delivered", "dropped", "buffered"))
        console.print(f"descriptor {one['descriptor']}: {counts}: {'adds up' if adds_up else 'DOES NOT ADD UP'}")
    return good


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"numpy": count_with_numpy, "iterate": iterate}[sys.argv[1]](sys.argv[2])
    else:
        main()
