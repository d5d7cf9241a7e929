"""`zbufd capture` in a network of the test's own, and packets that are sent into it."""

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.commands import Commands, command, run, wait_line
from support.network import Network
from support.processes import LIMIT_S

READING = ("setpriv", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""Another user, who can read the commands' files wherever they are, but can't write to other users' sockets."""

SENDER = """
import socket, sys
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind((sys.argv[1], 0))
for line in sys.stdin:
    out.send(bytes.fromhex(line))
"""


def frame(number: int, size: int = 100, *, vlan: Sequence[int] = (), to: str = "020000000002") -> bytes:
    """An Ethernet frame that holds its number, with VLAN tags if some are given."""
    tags = b"".join(
        struct.pack(">HH", 0x88A8 if at == 0 and len(vlan) > 1 else 0x8100, one) for at, one in enumerate(vlan)
    )
    head = bytes.fromhex(to) + bytes.fromhex("020000000001") + tags + b"\x88\xb5"
    return head + struct.pack("<I", number) + bytes([number & 0xFF]) * (size - len(head) - 4)


def datagram(number: int, vlan: Sequence[int] = (), *, port: int = 53) -> bytes:
    """A frame() with a UDP datagram for a port, over IP."""
    head, payload = frame(0, 0, vlan=vlan)[:-6], struct.pack("<I", number)
    udp = struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload
    ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, 0x0A000001, 0x0A000002)
    return head + b"\x08\x00" + ip + udp


def send(network: Network, frames: Sequence[bytes], interface: str = "za") -> None:
    """Send frames into an interface, in this order."""
    text = "".join(one.hex() + "\n" for one in frames)
    subprocess.run(network.inside(sys.executable, "-c", SENDER, interface), input=text, text=True, check=True)


class LiveLab:
    """A running `zbufd capture`, its log, and its statistics."""

    def __init__(self, network: Network, commands: Commands, name: str, *options: str, ready: bool = True) -> None:
        self.network = network
        self.name = name
        self._commands = commands
        line = [os.fsdecode(one) for one in command("zbufd", "capture", "--name", name, *options)]
        pipe = subprocess.PIPE
        self.process = commands.adopt(
            subprocess.Popen(network.inside(*line), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
        )
        if ready:
            self.wait_line("capturing on")

    def wait_line(self, part: str) -> str:
        """Wait for a line of its log."""
        return wait_line(self.process.stderr, part)

    def stats(self) -> dict[str, Any]:
        """zbuf stats --json"""
        done = run("zbuf", "stats", self.name, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def wait_offered(self, count: int) -> dict[str, Any]:
        """Wait until that many packets came from the interfaces."""
        limit = time.monotonic() + LIMIT_S
        while (found := self.stats())["offered"] < count:
            assert time.monotonic() < limit, f"{found['offered']} packets of {count} came"
        return found

    def dump(self, path: Path, *options: str) -> "subprocess.Popen[str]":
        """Start a zbuf dump, and return when it reads; end it with end()."""
        dumping = self._commands.start("zbuf", "dump", self.name, "-w", path, *options)
        wait_line(dumping.stderr, "reading")
        return dumping

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> str:
        """Send SIGTERM; returns what it printed until its end, which must be without errors."""
        self.signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, said
        assert "Traceback" not in said
        return said


class Tcpdump:
    """tcpdump on an interface, with which zbuf is compared."""

    def __init__(self, network: Network, commands: Commands, interface: str, path: Path, *options: str) -> None:
        self._path = path
        line = network.inside("tcpdump", "-i", interface, "--nano", "-U", "-Z", "root", "-w", str(path), *options)
        self.process = commands.adopt(subprocess.Popen(line, stderr=subprocess.PIPE, text=True))
        wait_line(self.process.stderr, "listening on")

    def end(self, count: int) -> None:
        """Stop it when it has written `count` packets."""
        self._end_when(lambda: len(packets_in(self._path)) >= count, f"{count} packets")

    def end_after(self, last: bytes) -> list[bytes]:
        """Stop it when it has written this frame; returns all frames that it wrote."""
        self._end_when(lambda: last in (packet[2] for packet in packets_in(self._path)), "the last frame")
        return [packet[2] for packet in packets_in(self._path)]

    def _end_when(self, done: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < limit, f"tcpdump has not written {what}"
            select.select([], [], [], 0.01)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(LIMIT_S)


def packets_in(path: Path) -> list[tuple[int, int, bytes]]:
    """(time in ns, length on the wire, bytes) of each whole packet of a capture file, as libpcap reads them."""
    from scapy.utils import RawPcapReader

    found: list[tuple[int, int, bytes]] = []
    meta: Any
    with RawPcapReader(str(path)) as reader:
        nanoseconds = 1 if getattr(reader, "nano", False) else 1000
        while True:
            try:
                data, meta = reader._read_packet(size=262_140)
            except EOFError:
                return found
            if hasattr(meta, "sec"):
                time_ns = meta.sec * 1_000_000_000 + meta.usec * nanoseconds
            else:
                time_ns = (meta.tshigh << 32 | meta.tslow) * 1_000_000_000 // meta.tsresol
            found.append((time_ns, meta.wirelen, bytes(data)))


def end_dump(dumping: "subprocess.Popen[str]") -> str:
    """Wait for the end of a dump; returns what it printed."""
    _, said = dumping.communicate(timeout=LIMIT_S)
    assert dumping.returncode == 0, said
    return said
