"""A descriptor, its segment and its readers in one process, and their memory as zbuf.h describes it.

The classes here read the shared memory with struct, not with the product: what they say is a second opinion.
"""

import contextlib
import itertools
import mmap
import os
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from support.project import TESTS
from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.memory.layout import MAX_CAPLEN, Layout
from zbuf.shared.memory.pcapng import Interface, prologue
from zbuf.shared.memory.reader_pages import make_ack_page, make_doorbell, map_ack_page
from zbuf.shared.memory.segment import Segment, map_segment

PAGE = 4096
HEADER_BYTES = 128
CAPACITY = PAGE - HEADER_BYTES
"""How many bytes of blocks fit into a buffer of one page."""
PACKET = bytes(92)
"""A packet whose block has 124 bytes: PER_BUFFER of them fill a buffer of one page to the last byte."""
PER_BUFFER = 32
ETHERNET = 1
LEDGER_FIELDS = (
    *("received", "filtered", "accepted", "delivered", "dropped", "abandoned", "buffered", "truncated"),
    *("received_bytes", "filtered_bytes", "accepted_bytes", "delivered_bytes", "dropped_bytes", "abandoned_bytes"),
    "buffered_bytes",
)

_HEADER = struct.Struct("<5I4x5QII")
_numbers = itertools.count()


class Header(NamedTuple):
    """struct zbuf_header; store_len is its two halves."""

    kernel_gen: int
    kernel_len: int
    user_gen: int
    packets: int
    interfaces: int
    wire_bytes: int
    sequence: int
    first_ns: int
    last_ns: int
    dropped_before: int
    stored_bytes: int
    store_gen: int


def read_header(memory: mmap.mmap, offset: int) -> Header:
    """The zbuf header at an offset of a segment."""
    return Header(*_HEADER.unpack_from(memory, offset))


def read_ledger(memory: mmap.mmap) -> dict[str, int]:
    """The ledger on page 0 of a segment."""
    return dict(zip(LEDGER_FIELDS, struct.unpack_from("<15Q", memory, 128), strict=True))


def read_state(memory: mmap.mmap) -> int:
    """struct zbuf_segment's state: 0 for forming, 1 for open, 2 for finished, 4 for closed."""
    return int.from_bytes(memory[12:16], "little")


def adds_up(ledger: dict[str, int]) -> bool:
    """Whether the two equations of the ledger hold, in packets and in bytes."""

    def agrees(unit: str) -> bool:
        received, filtered, accepted, *others = (
            ledger[name + unit]
            for name in ("received", "filtered", "accepted", "delivered", "dropped", "abandoned", "buffered")
        )
        return received == filtered + accepted and accepted == sum(others)

    return agrees("") and agrees("_bytes")


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Look until a condition holds, which another thread or process brings about; the limit is for broken code."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "what the test waits for did not happen"
        os.sched_yield()


def run_python(program: str, *arguments: str, seconds: float = 60) -> tuple[int, str, str]:
    """Run a program that may crash in another process, which can import this module.

    Returns:
        The exit status, the output, and the errors.
    """
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(program), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        finally:
            process.kill()
            for left_over in Path("/dev/shm").glob(f"zbuf.rig{process.pid}x*"):
                left_over.unlink()
    return process.returncode, output, errors


@dataclass(frozen=True)
class Block:
    """One Enhanced Packet Block, as parse_blocks() returns it."""

    data: bytes
    wirelen: int
    time_ns: int
    interface: int
    dropped: int = 0
    direction: int = 0


def parse_blocks(blocks: bytes) -> list[Block]:
    """Parse bytes that must be whole Enhanced Packet Blocks and nothing else."""
    found, offset = [], 0
    while offset < len(blocks):
        kind, total, interface, high, low, caplen, wirelen = struct.unpack_from("<7I", blocks, offset)
        assert (kind, total % 4) == (6, 0)
        assert struct.unpack_from("<I", blocks, offset + total - 4) == (total,)
        data = blocks[offset + 28 : offset + 28 + caplen]
        padding = -caplen % 4
        assert not any(blocks[offset + 28 + caplen : offset + 28 + caplen + padding])
        options = _parse_options(blocks[offset + 28 + caplen + padding : offset + total - 4])
        dropped, direction = options.get(4, 0), options.get(2, 0)
        found.append(Block(data, wirelen, high << 32 | low, interface, dropped, direction))
        offset += total
    assert offset == len(blocks)
    return found


def _parse_options(options: bytes) -> dict[int, int]:
    found: dict[int, int] = {}
    while options:
        code, length = struct.unpack_from("<HH", options)
        if code == 0:
            assert options == bytes(4)
            break
        found[code] = int.from_bytes(options[4 : 4 + length], "little")
        options = options[4 + length + -length % 4 :]
    return found


@dataclass
class Taken:
    """A buffer that a PlainReader has taken."""

    which: int
    header: Header
    blocks: bytes
    """A copy of its blocks, made when it was taken."""

    @property
    def packets(self) -> list[Block]:
        return parse_blocks(self.blocks)

    @property
    def payloads(self) -> list[bytes]:
        return [packet.data for packet in self.packets]


@dataclass
class PlainReader:
    """A reader in plain Python, written from zbuf.h alone."""

    memory: mmap.mmap
    offsets: Sequence[int]
    ack: mmap.mmap
    sequence: int
    held: list[Taken] = field(default_factory=list)
    """The buffers that it has taken and not acknowledged, oldest first."""

    def take(self) -> Taken | None:
        """The next buffer, if it is assigned."""
        which = self.sequence & 1
        if any(taken.which == which for taken in self.held):
            return None
        header = read_header(self.memory, self.offsets[which])
        if header.kernel_gen == self.user_gen(which):
            return None
        taken = Taken(which, header, self.blocks(which, header.kernel_len))
        self.sequence += 1
        self.held.append(taken)
        return taken

    def take_now(self) -> Taken:
        """Take the next buffer, which must be assigned."""
        taken = self.take()
        assert taken is not None, f"buffer {self.sequence} is not assigned"
        return taken

    def acknowledge(self, taken: Taken | None = None) -> None:
        """Give a buffer back; the oldest one by default."""
        taken = taken or self.held[0]
        self.held.remove(taken)
        struct.pack_into("<I", self.ack, 4 * taken.which, taken.header.kernel_gen)

    def blocks(self, which: int, length: int) -> bytes:
        begin = self.offsets[which] + HEADER_BYTES
        return self.memory[begin : begin + length]

    def user_gen(self, which: int) -> int:
        return int.from_bytes(self.ack[4 * which : 4 * which + 4], "little")

    def drain(self) -> list[Block]:
        """Take and acknowledge all that is assigned, now or because of this; returns the packets."""
        found: list[Block] = []
        while (taken := self.take()) is not None:
            found += taken.packets
            self.acknowledge(taken)
        return found


@dataclass
class Seat:
    """The ack page and the doorbell of one reader."""

    sequence: int
    announced: int
    """Interfaces, before the first buffer that it gets."""
    ack: mmap.mmap
    """The producer's mapping."""
    reader_ack: mmap.mmap
    ack_fd: int
    doorbell: int
    """The reader's end of the doorbell."""
    bell: int
    """The producer's end of the doorbell; -1 when it has hung up."""

    @property
    def sleeping(self) -> int:
        return int.from_bytes(self.ack[8:12], "little")

    @sleeping.setter
    def sleeping(self, value: int) -> None:
        struct.pack_into("<I", self.reader_ack, 8, value)

    @property
    def rings(self) -> int:
        """How often the doorbell was rung since the last call."""
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self.doorbell, 1 << 16))
        return 0

    def hang_up(self) -> None:
        """Close the producer's end, as the kernel does when the producer dies."""
        if self.bell >= 0:
            os.close(self.bell)
        self.bell = -1

    def close(self) -> None:
        self.hang_up()
        os.close(self.doorbell)
        os.close(self.ack_fd)


class Rig:
    """A segment and its descriptor; close() removes the segment and closes all file descriptors.

    Args:
        buffer_bytes: the size of each buffer; by default one page, which is soon full.
        interfaces: the interfaces that the prologue describes.
        growth_bytes: by how much the prologue may grow.
        options: options of the descriptor.
    """

    def __init__(
        self,
        *,
        buffer_bytes: int = PAGE,
        interfaces: Sequence[Interface] = (Interface("lab0", ETHERNET),),
        growth_bytes: int = 0,
        **options: Any,
    ) -> None:
        snaplen = options.get("snaplen", MAX_CAPLEN)
        blocks = prologue(interfaces, snaplen, "zbuf tests")
        name = f"rig{os.getpid()}x{next(_numbers)}"
        layout = Layout(name, "1", 7, buffer_bytes, len(blocks), snaplen, growth_bytes)
        self.descriptor = Descriptor(**options)
        self.segment = Segment(layout, blocks)
        self.interfaces = interfaces
        self.seats: dict[int, Seat] = {}
        self.memory = self.segment.map
        self.offsets: tuple[int, int] = layout.buffer_offsets
        try:
            self.descriptor.set_buffers(self.memory, *self.offsets, buffer_bytes)
            self.segment.open()
        except BaseException:
            self.segment.remove()
            raise

    def sit(self, number: int = 1) -> Seat:
        """Add a reader to the descriptor."""
        ack_fd, ack = make_ack_page()
        doorbell, bell = make_doorbell()
        sequence, announced = self.descriptor.add_reader(number, ack, bell)
        seat = Seat(sequence, announced, ack, map_ack_page(ack_fd), ack_fd, doorbell, bell)
        self.seats[number] = seat
        return seat

    def plain_reader(self, number: int = 1) -> PlainReader:
        seat = self.sit(number)
        return PlainReader(self.memory, self.offsets, seat.reader_ack, seat.sequence)

    def reader(self, number: int = 1, *, spin_ns: int = 0, kind: type[Any] = SegmentReader) -> Any:
        """A SegmentReader, or a reader of that kind, on a read-only mapping of its own, which knows the interfaces."""
        seat = self.sit(number)
        fd = self.segment.reader_fd()
        memory, layout = map_segment(fd)
        os.close(fd)
        return kind(
            memory,
            layout,
            seat.reader_ack,
            doorbell=seat.doorbell,
            sequence=seat.sequence,
            spin_ns=spin_ns,
            interfaces=self.interfaces,
        )

    def header(self, which: int) -> Header:
        return read_header(self.memory, self.offsets[which])

    def blocks(self, which: int, length: int = CAPACITY) -> bytes:
        """The first bytes after a buffer's header."""
        begin = self.offsets[which] + HEADER_BYTES
        return self.memory[begin : begin + length]

    def stored(self) -> bytes:
        """The blocks in the store, as a reader finds them after the producer was killed."""
        which: int = self.descriptor.slots()["store"]
        return self.blocks(which, self.header(which).stored_bytes)

    def poke(self, which: int, offset: int, value: bytes) -> None:
        """Overwrite bytes of a buffer, header included, through the producer's mapping."""
        self.memory[self.offsets[which] + offset : self.offsets[which] + offset + len(value)] = value

    def append(self, count: int = 1, data: bytes = PACKET, **packet: Any) -> None:
        for _ in range(count):
            self.descriptor.append_bytes(data, **packet)

    def assign(self) -> None:
        """Have the store assigned; while no buffer is free, a packet that has no room does that, and is lost."""
        if not self.descriptor.rotate():
            self.append(1, bytes(PAGE))

    def fill(self) -> None:
        """Append packets that fill one buffer to its last byte."""
        self.append(PER_BUFFER)

    def close(self) -> None:
        self.descriptor.close()
        self.segment.remove()
        while self.seats:
            self.seats.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
