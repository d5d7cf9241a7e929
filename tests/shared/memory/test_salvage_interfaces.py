"""zbuf salvage, of segments in which interfaces appeared: each is described once, before its packets."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rig import ETHERNET, Rig

from zbuf.shared.memory.leftovers import find_segments
from zbuf.shared.memory.pcapng import Interface, interface_description
from zbuf.shared.memory.salvage import salvage

SHM = Path("/dev/shm")
RAW_IP = 101


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Rig(growth_bytes=4096) as rig:
        yield rig


@pytest.fixture
def left(producer_name: str) -> Iterator[Path]:
    """Where a segment lies that its producer left behind."""
    path = SHM / f"zbuf.{producer_name}.1"
    yield path
    path.unlink(missing_ok=True)


def contents(path: Path) -> list[int | tuple[int, int]]:
    """A file's blocks, in order: an interface as its link type, a packet as its interface's number and its length."""
    data, found, offset = path.read_bytes(), [], 0
    while offset < len(data):
        kind, total = struct.unpack_from("<II", data, offset)
        if kind == 1:
            found.append(struct.unpack_from("<H", data, offset + 8)[0])
        elif kind == 6:
            found.append(struct.unpack_from("<I12xI", data, offset + 8))
        offset += total
    assert offset == len(data)
    return found


def salvaged(rig: Rig, left: Path, out: Path, name: str) -> list[int | tuple[int, int]]:
    left.write_bytes(rig.memory[:])
    (found,) = find_segments(name)
    assert salvage(found, str(out)).left_out_bytes == 0
    return contents(out)


def appended(rig: Rig) -> None:
    """Two packets in A; in B, an interface of another link type and two packets."""
    rig.append(2, bytes(60))
    rig.descriptor.announce(interface_description(Interface("late", RAW_IP), 262144))
    rig.append(1, bytes(40), interface=1)
    rig.append(1, bytes(61), interface=0)


def test_all_is_unread(rig: Rig, left: Path, producer_name: str, tmp_path: Path) -> None:
    rig.sit()
    appended(rig)
    wanted = [ETHERNET, (0, 60), (0, 60), RAW_IP, (1, 40), (0, 61)]
    assert salvaged(rig, left, tmp_path / "out", producer_name) == wanted


def test_the_buffer_that_announces_is_the_first_unread_one(
    rig: Rig, left: Path, producer_name: str, tmp_path: Path
) -> None:
    reader = rig.plain_reader()
    appended(rig)
    reader.take_now()
    reader.acknowledge()
    rig.descriptor.ledger()
    assert salvaged(rig, left, tmp_path / "out", producer_name) == [ETHERNET, RAW_IP, (1, 40), (0, 61)]


def test_the_buffer_that_announced_was_read(rig: Rig, left: Path, producer_name: str, tmp_path: Path) -> None:
    reader = rig.plain_reader()
    appended(rig)
    reader.take_now()
    reader.acknowledge()
    rig.descriptor.rotate()
    reader.take_now()
    reader.acknowledge()
    rig.append(1, bytes(62), interface=1)
    rig.descriptor.ledger()
    assert salvaged(rig, left, tmp_path / "out", producer_name) == [ETHERNET, RAW_IP, (1, 62)]
