"""Live capture on a veth pair, against other capture programs: packets sent, captured, dropped, and processor time.

trafgen sends as fast as it can into one end, in a network namespace of this run's own. At the other end the contestants
take turns to capture the same number of packets. Processor time is the time that the process's threads ran, as the
kernel says (/proc/PID/task/*/schedstat), from before the first packet until the last one was taken; the start of the
program is not in it. This needs root, and Debian's iproute2 and netsniff-ng.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Row, Session
from bench.stage import TIMEOUT_S, BenchError, Stage
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.opening import connect

_PACKETS = 1_000_000
_SCAPY_PACKETS = 100_000
_SIZES = (64, 1514)
KERNEL_BUFFER_KIB = 16384
_MOST_OF_TCPDUMP = 1.2
_FRAME = "{{ 0x02,0,0,0,0,2, 0x02,0,0,0,0,1, 0x88,0xb5, fill(0x41,{}) }}"
_QUIET_S = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    sent: int
    captured: int
    dropped: int
    cpu_s: float
    """Processor time of the capturing process."""
    readers_cpu_s: float = 0.0
    """Processor time of all of zbuf's readers."""

    @property
    def per_million(self) -> float:
        """Processor seconds per million packets."""
        return self.cpu_s / self.sent * 1e6


@dataclass(frozen=True)
class Contestant:
    """A program that captures."""

    name: str
    program: str
    command: Callable[["Link", Stage], list[str]]
    ready: str
    """A part of the line on standard error that says that it captures."""
    counts: Callable[[str, int], tuple[int, int]]
    """Makes (captured, dropped) of what it says on standard error at its end, and of the number of packets sent."""
    readers: int = 0
    join: str | None = None
    packets: int = _PACKETS


class Link:
    """A veth pair in a network namespace, za and zb; removed at the end."""

    def __init__(self) -> None:
        self._namespace = f"zbuf-bench-{os.getpid()}"
        _ip("netns", "add", self._namespace)
        try:
            _ip("-n", self._namespace, "link", "add", "za", "type", "veth", "peer", "name", "zb")
            for name in ("lo", "za", "zb"):
                _ip("-n", self._namespace, "link", "set", name, "up")
        except BaseException:
            self.close()
            raise

    def inside(self, *command: str) -> list[str]:
        """A command line that runs in the namespace."""
        return ["ip", "netns", "exec", self._namespace, *command]

    def send(self, packets: int, size: int, directory: Path) -> int:
        """Send as fast as possible; returns how many came through."""
        frame = directory / "frame.cfg"
        frame.write_text(_FRAME.format(size - 14))
        before = self._sent()
        options = ["--dev", "za", "--conf", str(frame), "--num", str(packets), "--cpus", "1", "-q"]
        subprocess.run(self.inside("trafgen", *options), capture_output=True, check=True, timeout=TIMEOUT_S)
        return self._sent() - before

    def _sent(self) -> int:
        found = json.loads(_ip("-n", self._namespace, "-s", "-j", "link", "show", "za"))
        return int(found[0]["stats64"]["tx"]["packets"])

    def close(self) -> None:
        """Remove the namespace, and with it the pair."""
        _ip("netns", "del", self._namespace)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


# ---- who captures ---------------------------------------------------------------------------------------------------

_SCAPY = """
import signal, sys, scapy.arch
from scapy.config import conf
socket, packets = conf.L2listen(iface="zb"), 0
def end(*_):
    sys.exit(f"{packets} packets captured")
signal.signal(signal.SIGINT, end)
print("listening", file=sys.stderr, flush=True)
while True:
    packets += socket.recv_raw()[1] is not None
"""


def _zbufd(link: Link, stage: Stage) -> list[str]:
    program = str(Path(sys.executable).with_name("zbufd"))
    place = ["--name", stage.name, "--run-dir", str(stage.directory), "--log-format", "text"]
    return link.inside(program, "capture", "-i", "zb", "-B", str(KERNEL_BUFFER_KIB), *place)


def _tcpdump(link: Link, _stage: Stage) -> list[str]:
    return link.inside("tcpdump", "-i", "zb", "-B", str(KERNEL_BUFFER_KIB), "-Z", "root", "-w", "/dev/null")


def _dumpcap(link: Link, _stage: Stage) -> list[str]:
    return link.inside("dumpcap", "-i", "zb", "-B", str(KERNEL_BUFFER_KIB >> 10), "-q", "-w", "/dev/null")


def _scapy(link: Link, _stage: Stage) -> list[str]:
    return link.inside(sys.executable, "-c", _SCAPY)


def _number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    if not found:
        raise BenchError(f"no {pattern!r} in {text!r}")
    return int(found[-1])


def _zbufd_counts(text: str, _sent: int) -> tuple[int, int]:
    lost = _number(r"(\d+) dropped by kernel", text) + _number(r"(\d+) dropped,", text)
    return _number(r"(\d+) packets captured", text), lost


def _tcpdump_counts(text: str, _sent: int) -> tuple[int, int]:
    return _number(r"(\d+) packets captured", text), _number(r"(\d+) packets dropped by kernel", text)


def _dumpcap_counts(text: str, _sent: int) -> tuple[int, int]:
    return _number(r"'zb': (\d+)/", text), _number(r"'zb': \d+/(\d+)", text)


def _scapy_counts(text: str, sent: int) -> tuple[int, int]:
    captured = _number(r"(\d+) packets captured", text)
    return captured, max(0, sent - captured)


_ONE = Contestant("zbufd, 1 reader", "ip", _zbufd, "capturing", _zbufd_counts, 1, "g")
_PEERS = [
    Contestant("tcpdump", "tcpdump", _tcpdump, "listening", _tcpdump_counts),
    Contestant("dumpcap", "dumpcap", _dumpcap, "File:", _dumpcap_counts),
    Contestant("scapy recv_raw", "ip", _scapy, "listening", _scapy_counts, packets=_SCAPY_PACKETS),
]
_MORE = [
    Contestant("zbufd, 4 joined", "ip", _zbufd, "capturing", _zbufd_counts, 4, "g"),
    Contestant("zbufd, 16 joined", "ip", _zbufd, "capturing", _zbufd_counts, 16, "g"),
    Contestant("zbufd, 4 private", "ip", _zbufd, "capturing", _zbufd_counts, 4),
    Contestant("zbufd, 16 private", "ip", _zbufd, "capturing", _zbufd_counts, 16),
]


def read(name: str, run_dir: str, join: str | None) -> dict[str, float]:
    """Be a reader that takes every buffer, and looks at no packet."""
    packets = 0
    with connect(name, run_dir=run_dir, join=join) as reader:
        for buffer in reader.buffers():
            packets += len(buffer)
    return {"packets": packets}


# ---- a run ----------------------------------------------------------------------------------------------------------


@dataclass
class Started:
    """A program that is ready."""

    process: "subprocess.Popen[str]"
    said: list[str] = field(default_factory=list)
    """What it said on standard error until then."""


@contextlib.contextmanager
def started(command: Sequence[str], ready: str) -> Iterator[Started]:
    """Start a program, and wait until it says on standard error that it is ready; it is killed at the end."""
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as one:
        try:
            running = Started(one)
            for line in one.stderr or ():
                running.said.append(line)
                if ready in line:
                    break
            else:
                raise BenchError(f"{' '.join(command)} ended: {''.join(running.said)}")
            yield running
        finally:
            one.kill()


def _run(link: Link, contestant: Contestant, size: int, packets: int) -> Outcome:
    with Stage() as stage, started(contestant.command(link, stage), contestant.ready) as capturing:
        readers = [stage.call(read, **stage.place, join=contestant.join) for _ in range(contestant.readers)]
        if readers:
            _wait_readers(stage, len(readers))
        pids = [one.pid for one in readers]
        before, readers_before = _cpu_s(capturing.process.pid), sum(map(_cpu_s, pids))
        sent = link.send(packets, size, stage.directory)
        time.sleep(_QUIET_S)  # what is in the kernel's buffer is taken within milliseconds
        cpu_s = _cpu_s(capturing.process.pid) - before
        readers_cpu_s = sum(map(_cpu_s, pids)) - readers_before
        capturing.process.send_signal(signal.SIGINT)
        _, text = capturing.process.communicate(timeout=TIMEOUT_S)
        captured, dropped = contestant.counts(text, sent)
        for one in readers:
            one.output()
    return Outcome(sent, captured, dropped, cpu_s, readers_cpu_s)


def _wait_readers(stage: Stage, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    with Connection(stage.name, stage.directory) as connection:
        while sum(len(one.readers) for one in connection.stats().descriptors) < count:
            if time.monotonic() > deadline:
                raise BenchError("the readers have not come")
            time.sleep(0.02)


def _cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


# ---- the measure ----------------------------------------------------------------------------------------------------


def measure(session: Session) -> list[Row]:
    """A row for each contestant and size, and what the targets say."""
    lacking = missing("live", ip="iproute2", trafgen="netsniff-ng", tcpdump="tcpdump")
    if lacking:
        return [Row("live capture", lacking)]
    link = Link()
    try:
        return [row for size in _SIZES for row in _measure_size(session, link, size)]
    finally:
        link.close()


def missing(measure: str, **packages: str) -> str:
    """Why a measure that needs a Link can't be run here, and what to do; empty if it can.

    Args:
        measure: its name.
        packages: Debian packages, by the program that it needs from each.
    """
    if os.geteuid() != 0:
        return f"needs root: sudo make bench BENCH='--only {measure}'"
    for program, package in packages.items():
        if shutil.which(program) is None:
            return f"{program} is not there: install Debian's {package}"
    return ""


def _measure_size(session: Session, link: Link, size: int) -> list[Row]:
    contestants = [_ONE, *(one for one in _PEERS if shutil.which(one.program))]
    if size == _SIZES[0]:
        contestants += _MORE
    outcomes: dict[str, list[Outcome]] = {one.name: [] for one in contestants}
    for number in range(min(session.rounds, 5)):
        for turn in range(len(contestants)):
            one = contestants[(turn + number) % len(contestants)]
            session.progress(f"live capture, {size} bytes: round {number + 1}, {one.name}")
            outcomes[one.name].append(_run(link, one, size, session.scaled(one.packets)))
    return [_row(one, size, outcomes) for one in contestants]


def _row(one: Contestant, size: int, outcomes: dict[str, list[Outcome]]) -> Row:
    runs = outcomes[one.name]
    sent, captured, dropped = (sum(getattr(run, what) for run in runs) for what in ("sent", "captured", "dropped"))
    ratios = [a.per_million / b.per_million for a, b in zip(runs, outcomes["tcpdump"], strict=True)]
    reader_s = statistics.median(run.readers_cpu_s / run.sent * 1e6 for run in runs)
    seconds = statistics.median(run.per_million for run in runs)
    is_first = one is _ONE
    ratio = statistics.median(ratios)
    also = f", readers {reader_s:.3f} s" if one.readers else ""
    return Row(
        f"live {size} B, {one.name}",
        f"{seconds:.3f} s/M packets{also}",
        f"sent {sent:,}, captured {captured:,}, dropped {dropped:,}",
        f"{ratio:.2f}",
        f"{min(ratios):.2f}..{max(ratios):.2f}",
        target=f"<= {_MOST_OF_TCPDUMP:g} tcpdump" if is_first else "",
        met=ratio <= _MOST_OF_TCPDUMP and (dropped == 0 or _dropped(outcomes["tcpdump"]) > 0) if is_first else None,
        data={"size": size, "contestant": one.name, "runs": [vars(run) for run in runs], "ratios": ratios},
    )


def _dropped(runs: Sequence[Outcome]) -> int:
    return sum(run.dropped for run in runs)
