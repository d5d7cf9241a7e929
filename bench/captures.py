"""The captures to measure with. They are made from a seed, so they have the same bytes each time."""

import os
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.store import PacketStore
from zbuf.shared.errors import CaptureFileError

_FILE_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)  # pcap, microseconds, Ethernet
_RECORD = struct.Struct("<IIII")
_ETHERNET = bytes.fromhex("020000000002 020000000001 88b5")  # local addresses, a type for local experiments

ETHERTYPE = 0x88B5
"""The type of these packets."""
NUMBER_AT = len(_ETHERNET)
"""The place of the number in a numbered packet: 4 bytes, little-endian."""
_NUMBER_BYTES = 4

_MIX_PACKETS = 40_000
_SMALLEST, _LARGEST = 60, 1514

_ONE_SIZE_BYTES = 16 << 20
"""The size of a capture with packets of one size. Like a real capture, it is larger than a second-level cache. With a
source that stays in that cache (256 KiB), the append loop alone is faster, and the ring's share of the time larger."""


@dataclass(frozen=True)
class Capture:
    """A capture file."""

    path: str
    packets: int
    captured_bytes: int

    def loops(self, packets: int) -> int:
        """How many times to read it for that many packets, or a few more."""
        return -(-packets // self.packets)

    def __str__(self) -> str:
        average = self.captured_bytes / self.packets
        return f"{Path(self.path).name}: {self.packets:,} packets of {average:.0f} bytes on average"


def mixed_sizes(directory: Path) -> Capture:
    """Packets as on a real line: most are short, and most bytes are in full-sized ones; 395 bytes on average."""
    chance = random.Random(1)  # noqa: S311  (no secrets here)
    sizes = [_mixed_size(chance) for _ in range(_MIX_PACKETS)]
    return _write(directory / "mix.pcap", (_frame(size, chance) for size in sizes))


def _mixed_size(chance: random.Random) -> int:
    kind = chance.random()
    if kind < 0.70:
        return chance.randint(_SMALLEST, 110)
    if kind < 0.82:
        return chance.randint(110, 1000)
    return chance.randint(1450, _LARGEST)


def one_size(directory: Path, size: int) -> Capture:
    """Packets of `size` bytes, 16 MiB of them."""
    chance = random.Random(size)  # noqa: S311
    return _write(directory / f"{size}.pcap", (_frame(size, chance) for _ in range(_ONE_SIZE_BYTES // size)))


def numbered(directory: Path) -> Capture:
    """16 MiB of packets of 64 bytes, each with its number after the Ethernet header, see NUMBER_AT."""
    chance, size = random.Random(64), 64  # noqa: S311
    numbers = (number.to_bytes(_NUMBER_BYTES, "little") for number in range(_ONE_SIZE_BYTES // size))
    return _write(directory / "numbered.pcap", (_frame(size, chance, number) for number in numbers))


def _frame(size: int, chance: random.Random, beginning: bytes = b"") -> bytes:
    header = _ETHERNET + beginning
    return header + chance.randbytes(size - len(header))


def _write(path: Path, frames: Iterable[bytes]) -> Capture:
    packets = captured_bytes = 0
    with path.open("wb") as file:
        file.write(_FILE_HEADER)
        for frame in frames:
            seconds, microseconds = divmod(packets * 7, 1_000_000)
            file.write(_RECORD.pack(1_700_000_000 + seconds, microseconds, len(frame), len(frame)))
            file.write(frame)
            packets += 1
            captured_bytes += len(frame)
    return Capture(str(path), packets, captured_bytes)


def packets_of(path: str) -> list[bytes]:
    """The packets of a capture that was made here."""
    content, packets = memoryview(Path(path).read_bytes()), []
    offset = len(_FILE_HEADER)
    while offset < len(content):
        length = _RECORD.unpack_from(content, offset)[2]
        offset += _RECORD.size
        packets.append(bytes(content[offset : offset + length]))
        offset += length
    return packets


def existing(path: Path) -> Capture:
    """A capture that somebody gave: pcap or pcapng, not gzipped, since libpcap does not read gzip.

    Raises:
        CaptureFileError: it is not a capture.
        OSError: it can't be opened.
    """
    file, store = CaptureFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path)), PacketStore()
    store.load(file, 2**63)
    if file.damage is not None or not len(store):
        raise CaptureFileError(f"{file.damage or f'{path}: no packets in it'}: choose another")
    return Capture(str(path.resolve()), len(store), store.captured_bytes)
