"""Numbered packets for tests of a descriptor, and filter programs made by hand."""

import struct
from collections.abc import Callable, Iterable

from support.rig import PAGE, Block, Rig

MakeRig = Callable[..., Rig]
MEMORY_BYTES = 4 * PAGE  # page 0, and room for more than two buffers of a page
MS = 1_000_000


def keep(size: int) -> bytes:
    """A filter program that accepts so many bytes of every packet: "ret #size"."""
    return struct.pack("<HBBI", 0x06, 0, 0, size)


def numbered(number: int, size: int = 92) -> bytes:
    """A packet that holds its number; with 92 bytes, PER_BUFFER packets fill a buffer."""
    return (struct.pack("<I", number) * (size // 4 + 1))[:size]


def numbers(packets: Iterable[Block]) -> list[int]:
    """The numbers of numbered() packets."""
    return [int.from_bytes(packet.data[:4], "little") for packet in packets]
