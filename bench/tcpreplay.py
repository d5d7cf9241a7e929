"""tcpreplay, which sends the packets of a capture file to an interface: the peer of paced replay.

It sends into one end of a veth pair. The file is preloaded (-K), and statistics of flows are off: its manual page says
that it is fastest so.
"""

import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from bench.captures import ETHERTYPE, NUMBER_AT, Capture
from bench.live import KERNEL_BUFFER_KIB, Link, Started, started
from bench.stage import TIMEOUT_S, BenchError, Stage

TIMERS = ("gtod", "nano", "select")
"""The values of -T. The first one is the default; a fourth, ioport, exists on i386 only."""

_NANOSECONDS = b"\x4d\x3c\xb2\xa1"  # the beginning of a pcap file with nanoseconds, on a little-endian machine
_HEADER_BYTES = 24
_PATIENCE_S = 5.0  # libpcap hands packets over after a second at the latest


@dataclass(frozen=True)
class Arrivals:
    """Numbered packets, and the times at which they came."""

    numbers: NDArray[numpy.int64]
    times_ns: NDArray[numpy.int64]


def top_speed(link: Link, capture: Capture, loops: int) -> float:
    """The packets per second that it reports."""
    said = _send(link, "--topspeed", "--loop", str(loops), capture.path)
    sent = int(_found(r"Actual: (\d+) packets", said))
    if sent != capture.packets * loops:
        raise BenchError(f"tcpreplay sent {sent:,} packets of {capture.packets * loops:,}")
    return float(_found(r"([\d.]+) pps", said))


def paced(link: Link, capture: Capture, timer: str, pps: int, packets: int) -> Arrivals:
    """Replay, and have tcpdump capture at the other end, with the kernel's time stamps in nanoseconds.

    Args:
        link: the veth pair.
        capture: numbered packets.
        timer: one of TIMERS.
        pps: packets per second.
        packets: how many to send.
    """
    with Stage() as stage:
        file = stage.directory / "arrived.pcap"
        options = ["-i", "zb", "-B", str(KERNEL_BUFFER_KIB), "-Z", "root", "-c", str(packets), "-w", str(file)]
        stamps = ["--time-stamp-precision=nano", "-j", "host"]
        expression = f"ether proto {ETHERTYPE:#x}"
        with started(link.inside("tcpdump", *options, *stamps, expression), "listening") as capturing:
            _send(link, "--pps", str(pps), "--timer", timer, "--limit", str(packets), capture.path)
            _end(capturing)
        return _arrivals(file, capture)


def _send(link: Link, *options: str) -> str:
    command = link.inside("tcpreplay", "-q", "-i", "za", "--preload-pcap", "--no-flow-stats", *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        raise BenchError(f"tcpreplay failed: {done.stderr.strip()}")
    return done.stdout


def _found(pattern: str, said: str) -> str:
    found = re.search(pattern, said)
    if found is None:
        raise BenchError(f"no {pattern!r} in what tcpreplay says: {said!r}")
    return found[1]


def _end(capturing: Started) -> None:
    """Wait for tcpdump: it ends by itself once it has all packets, and is told to if some were lost."""
    try:
        capturing.process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        capturing.process.send_signal(signal.SIGINT)
        capturing.process.communicate(timeout=_PATIENCE_S)


def _arrivals(file: Path, capture: Capture) -> Arrivals:
    size = capture.captured_bytes // capture.packets
    fields = [("seconds", "<u4"), ("nanoseconds", "<u4"), ("lengths", "V8"), ("header", f"V{NUMBER_AT}")]
    record = numpy.dtype([*fields, ("number", "<u4"), ("rest", f"V{size - NUMBER_AT - 4}")])
    content = file.read_bytes()
    if not content.startswith(_NANOSECONDS):
        raise BenchError(f"tcpdump wrote no nanoseconds: {content[:_HEADER_BYTES]!r}")
    found = numpy.frombuffer(content, record, (len(content) - _HEADER_BYTES) // record.itemsize, _HEADER_BYTES)
    times_ns = found["seconds"].astype(numpy.int64) * 10**9 + found["nanoseconds"]
    return Arrivals(found["number"].astype(numpy.int64), times_ns)
