"""Writing capture files: packets per processor second of the process that writes.

Timed: `zbuf dump NAME -w FILE`, while its producer replays a capture from memory again and again, lossless. The
processor time is the dump's own, from when it is connected to its end. The start of Python is left out, since a dump
runs for as long as a capture does.

Against: `tcpdump -r FILE -w FILE`, with all of its processor time. Its input has the same packets as often. Both write
to memory (/dev/shm), and tcpdump's input is there, too. Before each run a file of that size is written there and
removed: memory that a virtual machine's host has yet to find costs several times as much as the writing.
"""

import dataclasses
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import pipeline
from bench.captures import Capture
from bench.measure import Round, Row, Session, conditions
from bench.stage import TIMEOUT_S, BenchError, Stage

_PACKETS = 4_000_000
_TARGET = 2.0
_MEMORY = Path("/dev/shm")  # noqa: S108  (a file system in memory is what is asked for)
_PCAP_HEADER_BYTES = 24
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Written:
    """What became of one run."""

    packets: int
    bytes: int
    """The size of the file."""
    cpu_s: float
    """Processor time of the process that wrote it."""
    seconds: float

    @property
    def rate(self) -> float:
        """Packets per processor second."""
        return self.packets / self.cpu_s


def measure(session: Session) -> list[Row]:
    """One row."""
    name = "zbuf dump -w: packets / processor second"
    if shutil.which("tcpdump") is None:
        return [Row(name, peer="tcpdump is not installed")]
    loops = session.capture.loops(session.scaled(_PACKETS))
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-", dir=_MEMORY) as directory:
        source = _repeated(session.capture, loops, Path(directory, "source.pcap"))
        size = source.stat().st_size
        runs = {
            "zbuf": lambda: _zbuf(session.capture, loops, _warmed(Path(directory, "zbuf"), size)),
            "tcpdump": lambda: _tcpdump(source, session.capture.packets * loops, _warmed(Path(directory, "out"), size)),
        }
        counted, rounds = session.take_turns("dump", runs, lambda one: 2 if one == "zbuf" else 1)
    return [_row(name, counted, rounds)]


def _repeated(capture: Capture, loops: int, path: Path) -> Path:
    """Make a pcap file that has the capture's packets as often."""
    content = Path(capture.path).read_bytes()
    if struct.unpack_from("<I", content)[0] not in (0xA1B2C3D4, 0xA1B23C4D):
        raise BenchError(f"{capture.path}: to be repeated it must be a pcap file of this machine's byte order")
    with path.open("wb") as file:
        file.write(content[:_PCAP_HEADER_BYTES])
        for _ in range(loops):
            file.write(content[_PCAP_HEADER_BYTES:])
    return path


def _warmed(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for _ in range(-(-size // _CHUNK_BYTES)):
            file.write(bytes(_CHUNK_BYTES))
    path.unlink()
    return path


def _zbuf(capture: Capture, loops: int, path: Path) -> Written:
    with Stage() as stage:
        replaying = stage.call(pipeline.replay, **stage.place, file=capture.path, loops=loops)
        cpu_s = _dump(stage, path)
        times = replaying.result()
    size = path.stat().st_size
    path.unlink()
    return Written(int(times["packets"]), size, cpu_s, times["ended"] - times["began"])


def _dump(stage: Stage, path: Path) -> float:
    """The processor time of a dump from when it is connected to its end."""
    options = ["--run-dir", str(stage.directory), "--wait-producer", str(TIMEOUT_S), "-w", str(path)]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("zbuf")), "dump", stage.name, *options], stderr=subprocess.PIPE
    )
    with process:
        for line in process.stderr or ():
            if b"reading" in line:
                break
        used_before = _cpu_s(process.pid)
        said = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchError(f"zbuf dump failed: {said.decode(errors='replace')}")
    return used.ru_utime + used.ru_stime - used_before


def _cpu_s(pid: int) -> float:
    """The processor time of a running process: fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _tcpdump(source: Path, packets: int, path: Path) -> Written:
    began = os.times()
    done = subprocess.run(
        ["tcpdump", "-r", source, "-w", path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    ended = os.times()
    if done.returncode:
        raise BenchError(f"tcpdump failed: {done.stderr.decode(errors='replace')}")
    size = path.stat().st_size
    path.unlink()
    cpu_s = ended.children_user + ended.children_system - began.children_user - began.children_system
    return Written(packets, size, cpu_s, ended.elapsed - began.elapsed)


def _row(name: str, counted: Sequence[Round[Written]], rounds: Sequence[Round[Written]]) -> Row:
    ratios = [one.outcomes["zbuf"].rate / one.outcomes["tcpdump"].rate for one in counted]
    row = Row(
        name,
        _in_words(counted, "zbuf"),
        f"tcpdump -r -w {_in_words(counted, 'tcpdump')}",
        conditions=conditions(counted),
        data={"rounds": list(map(dataclasses.asdict, rounds))},
    )
    return row.compared(ratios, _TARGET)


def _in_words(rounds: Sequence[Round[Written]], who: str) -> str:
    found = [one.outcomes[who] for one in rounds]
    rate = statistics.median(one.rate for one in found)
    per_gb = statistics.median(one.cpu_s / one.bytes * 1e9 for one in found)
    speed = statistics.median(one.bytes / one.seconds / 1e9 for one in found)
    return f"{rate / 1e6:.1f} M/s, {per_gb:.2f} s/GB, {speed:.2f} GB/s"
