"""Helpers of the tests of readers, buffers and packets: getting one, and seeing what a reader has written."""

import struct
import subprocess
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from support.rig import Rig
from zbuf.consumer.reading.buffer import Buffer, Packet
from zbuf.consumer.reading.segment_reader import SegmentReader

MakeRig = Callable[..., Rig]
Start = Callable[..., subprocess.Popen[str]]
LONG = 20  # seconds; only broken code waits so long


def take(reader: SegmentReader) -> Buffer:
    """The next buffer, which must be there."""
    buffer = reader.next_buffer(timeout=0)
    assert buffer is not None
    return buffer


def one_buffer(rig: Rig, *payloads: bytes) -> Buffer:
    """A buffer with these packets, taken by a new reader."""
    reader = rig.reader()
    for at, payload in enumerate(payloads):
        rig.descriptor.append_bytes(payload, time_ns=1000 + at)
    rig.descriptor.rotate()
    return take(reader)


def one_packet(rig: Rig, payload: bytes = b"a packet") -> Packet:
    return next(iter(one_buffer(rig, payload)))


def collect_payloads(reader: Iterable[Packet]) -> list[bytes]:
    return [bytes(packet) for packet in reader]


def user_gens(rig: Rig, number: int = 1) -> tuple[int, int]:
    """The generations that a reader has written into its ack page."""
    first, second = struct.unpack_from("<II", rig.seats[number].ack)
    return first, second


def take_nothing(reader: SegmentReader) -> bool:
    return reader.next_buffer(timeout=0) is None


def array_of(data: Any, kind: str = "u1") -> Any:
    """A NumPy array in the same memory; NumPy's type hints accept only the standard library's buffers."""
    return np.frombuffer(data, kind)


def address(data: object) -> int:
    return int(array_of(data).__array_interface__["data"][0])
