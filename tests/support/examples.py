"""Helpers of the tests of the examples: an example as a process, its output, packets for it."""

import struct
import subprocess
import threading
from collections.abc import Callable

from support.captures import Record
from support.processes import LIMIT_S, Lab
from support.project import ROOT
from support.rig import wait_until
from zbuf.producer import Producer, RawPacket

EXAMPLES = ROOT / "examples"
PAGE = 4096
HEADER_BYTES = 128
SECOND_NS = 1_000_000_000

Process = subprocess.Popen[str]
Start = Callable[..., Process]
"""The fixture `example`: start(program, *arguments)."""


def publish(producer: Producer, packets: list[Record], readers: int = 1) -> None:
    """Append the packets once the readers are there, and end the stream."""
    broken = threading.Timer(LIMIT_S, producer.stop)  # a reader that never acknowledges would make us wait for ever
    broken.start()
    assert producer.wait_readers(readers), "no reader came"
    producer.publish(RawPacket(packet.data, time_ns=packet.time_ns) for packet in packets)
    broken.cancel()
    producer.close()


def wait_delivered(lab: Lab, packets: int) -> None:
    """Wait until the readers have taken so many packets."""
    wait_until(lambda: sum(one.delivered for one in lab.descriptors()) == packets)


def outcome(process: Process) -> tuple[str, str, int]:
    """Wait for the end of a process; returns its output, its errors and its status."""
    output, errors = process.communicate(timeout=LIMIT_S)
    return output, errors, process.returncode


def flow_of(data: bytes) -> str | None:
    """The flow of a frame, parsed by code of the test's own; None if the frame has no ports."""
    if len(data) < 34 or data[12:14] != b"\x08\x00" or data[23] not in (6, 17):
        return None
    if struct.unpack_from(">H", data, 20)[0] & 0x1FFF:
        return None
    ports = 14 + (data[14] & 15) * 4
    if len(data) < ports + 4:
        return None
    source, target = struct.unpack_from(">HH", data, ports)
    ends = (".".join(map(str, data[26:30])), source, ".".join(map(str, data[30:34])), target)
    return "{} {}:{} > {}:{}".format("TCP" if data[23] == 6 else "UDP", *ends)
