"""Buffers whose bytes are no packets, as a broken or hostile producer leaves them: an error, however they are read.

The reader and its producer are two processes, and the damage is done to the shared memory between them. What each word
of a block can be is test_broken_producer.py's; here is every way to come across it.
"""

import asyncio
import os
import signal
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import LIMIT_S, Lab, Remote, number_of, take_all

from zbuf.consumer import AsyncReader, Reader, connect, connect_async
from zbuf.consumer.scapy import ScapySocket
from zbuf.shared.errors import CorruptBuffer

SNAPLEN = 58
"""A packet has as many bytes here, and two of padding."""
HEADER_BYTES = 128
DAMAGE = {  # where in buffer A, and what; it has two blocks of 92 bytes
    "blocks beyond the buffer": (4, 4096),
    "blocks that are no multiple of the alignment": (4, 2 * 92 - 2),
    "more packets than fit": (12, 1000),
    "another block type": (HEADER_BYTES + 92, 5),
    "a block of nothing": (HEADER_BYTES + 92 + 4, 0),
    "a block that is no multiple of the alignment": (HEADER_BYTES + 92 + 4, 91),
    "a block beyond the end": (HEADER_BYTES + 92 + 4, 96),
    "lengths at both ends that differ": (HEADER_BYTES + 92 + 88, 88),
    "an interface that there is not": (HEADER_BYTES + 92 + 8, 1),
    "data beyond the block": (HEADER_BYTES + 92 + 20, 61),
    "data beyond the snaplen": (HEADER_BYTES + 92 + 20, SNAPLEN + 1),
}


def damage(lab: Lab, offset: int, value: int) -> None:
    """Overwrite a word of buffer A in the only segment of a producer, from outside."""
    (segment,) = Path("/dev/shm").glob(f"zbuf.{lab.name}.*")
    with segment.open("r+b") as file:
        file.seek(48)
        (begin,) = struct.unpack("<Q", file.read(8))
        file.seek(begin + offset)
        file.write(struct.pack("<I", value))


def receive_all(reader: Reader) -> None:
    with ScapySocket(reader) as socket:
        while True:
            socket.recv()


async def iterate(reader: AsyncReader) -> None:
    async for _ in reader:
        pass


async def take_batches(reader: AsyncReader) -> None:
    async for _ in reader.index_batches():
        pass


WAYS: dict[str, Callable[[Reader], object]] = {
    "iteration": list,
    "buffers": lambda reader: [list(buffer) for buffer in reader.buffers()],
    "copies": lambda reader: [packet.copy() for packet in reader],
    "index": lambda reader: [buffer.index() for buffer in reader.buffers()],
    "totals": lambda reader: [buffer.totals() for buffer in reader.buffers()],
    "index_batches": lambda reader: list(reader.index_batches()),
    "scapy": receive_all,
}


@pytest.fixture
def options() -> dict[str, Any]:
    return {"buffer_size": 4096, "timeout_ms": 0, "snaplen": SNAPLEN}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_buffer_is_an_error_for_a_reader(lab: Lab, options: dict[str, Any], what: str, way: str) -> None:
    with connect(lab.name, **options) as reader:
        lab.append(2)
        reader.rotate()
        damage(lab, *DAMAGE[what])
        lab.process.begin("producer.close()")
        with pytest.raises(CorruptBuffer, match="its producer is broken"):
            WAYS[way](reader)


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_buffer_is_an_error_for_a_reader_that_comes_back(lab: Lab, options: dict[str, Any], what: str) -> None:
    with connect(lab.name, reconnect=True, **options) as reader:
        lab.append(2)
        reader.rotate()
        damage(lab, *DAMAGE[what])
        with pytest.raises(CorruptBuffer, match="its producer is broken"):
            list(reader.next_buffer(timeout=LIMIT_S) or ())


@pytest.mark.parametrize("way", [iterate, take_batches])
@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_buffer_is_an_error_in_asyncio(
    lab: Lab, options: dict[str, Any], what: str, way: Callable[[AsyncReader], Any]
) -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S), connect_async(lab.name, **options) as reader:
            lab.append(2)
            await reader.rotate()
            damage(lab, *DAMAGE[what])
            lab.process.begin("producer.close()")
            await way(reader)

    with pytest.raises(CorruptBuffer, match="its producer is broken"):
        asyncio.run(main(), debug=True)


def test_buffer_after_a_damaged_one_is_read(lab: Lab, options: dict[str, Any]) -> None:
    with connect(lab.name, **options) as reader:
        lab.append(2)
        reader.rotate()
        damage(lab, *DAMAGE["another block type"])
        with pytest.raises(CorruptBuffer):
            list(reader)
        assert reader.next_buffer(timeout=0) is None
        sent = lab.append(3, size=SNAPLEN)
        reader.rotate()
        buffer = reader.next_buffer(timeout=LIMIT_S)
        assert buffer is not None
        assert [number_of(bytes(packet)) for packet in buffer] == sent
        (descriptor,) = lab.descriptors()
        assert (descriptor.delivered, descriptor.buffered) == (2, 3)


VICTIM = """
    import sys
    from zbuf.consumer import connect
    with connect(sys.argv[1], timeout_ms=0) as reader:
        print("ready", flush=True)
        sys.stdin.readline()
        print(len(list(reader)), flush=True)
"""


def test_segment_that_is_cut_short_ends_its_own_reader_by_sigbus_and_no_other(
    lab: Lab, remote: Callable[[], Remote], start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """What docs/protocol.md says of trust; a name in /dev/shm can't be sealed against it."""
    other = Lab(remote(), f"other.{lab.name}")
    with connect(other.name) as reader:
        victim = start(VICTIM, lab.name)
        (segment,) = Path("/dev/shm").glob(f"zbuf.{lab.name}.*")
        os.truncate(segment, 0)
        victim.communicate("read\n", timeout=LIMIT_S)
        assert victim.returncode == -signal.SIGBUS
        sent = other.append(2)
        other.process.begin("producer.close()")
        assert take_all(reader) == sent
        other.process.result()
