"""A broken or hostile producer: its reader gets an error, never a byte from outside of its buffer."""

import ctypes
import mmap
import os
import random
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.reading import (
    MakeRig,
    one_buffer,
    take,
    take_nothing,
    user_gens,
)
from support.rig import CAPACITY, HEADER_BYTES, PAGE

from zbuf.consumer.reading.batches import Batch
from zbuf.consumer.reading.buffer import Buffer
from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import CorruptBuffer
from zbuf.shared.memory.reader_pages import make_doorbell


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (4, CAPACITY + 4),
        (4, 2**32 - 4),
        (4, 2**31),
        (4, 41),
        (4, 42),
        (12, 5),
        (12, 2**32 - 1),
    ],
    ids=["too long", "huge", "negative", "odd", "not words", "more packets than fit", "very many packets"],
)
def test_an_impossible_header_is_refused_again_and_again(make_rig: MakeRig, offset: int, value: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(1, b"12345678")
    rig.descriptor.rotate()
    rig.poke(0, offset, struct.pack("<I", value))
    for _ in range(2):
        with pytest.raises(CorruptBuffer, match=r"buffer 0: .* its producer is broken"):
            reader.next_buffer(timeout=0)
    rig.poke(0, 4, struct.pack("<I", 40))
    rig.poke(0, 12, struct.pack("<I", 1))
    assert len(take(reader)) == 1


WALKS: dict[str, Callable[[Buffer], object]] = {
    "walk": list,
    "index": lambda buffer: buffer.index(),
    "totals": lambda buffer: buffer.totals(),
    "batch": Batch,
}
BROKEN_WORDS = {  # of the second block, which begins at 40 and has 40 bytes, if nothing else is said
    "total of the first and the second": (4, 80),
    "total of nothing": (44, 0),
    "total that is odd": (44, 41),
    "total without room for its data": (44, 36),
    "total behind the end": (44, 44),
    "total that wraps around": (44, 2**32 - 4),
    "total at the end of nothing": (76, 0),
    "total at the end that is another": (76, 36),
    "interface that there is not": (48, 1),
    "interface that wraps around": (48, 2**32 - 1),
    "caplen behind its block": (60, 9),
    "caplen of more than any": (60, 262145),
    "caplen that wraps around": (60, 2**32 - 1),
}


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("name", BROKEN_WORDS)
def test_bytes_that_are_no_packet_blocks_are_an_error(make_rig: MakeRig, name: str, walk: str) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"12345678", b"12345678")
    offset, value = BROKEN_WORDS[name]
    rig.poke(0, HEADER_BYTES + offset, struct.pack("<I", value))
    with pytest.raises(CorruptBuffer, match=r"buffer 0: .* its producer is broken"):
        WALKS[walk](buffer)


@pytest.mark.parametrize("walk", WALKS)
def test_a_packet_longer_than_the_snaplen_is_an_error_though_its_block_has_room_for_it(
    make_rig: MakeRig, walk: str
) -> None:
    rig = make_rig(snaplen=7)
    buffer = one_buffer(rig, b"12345678", b"12345678")
    assert [packet.caplen for packet in buffer] == [7, 7]
    rig.poke(0, HEADER_BYTES + 60, struct.pack("<I", 8))
    with pytest.raises(CorruptBuffer, match=r"buffer 0: .* its producer is broken"):
        WALKS[walk](buffer)


@pytest.mark.parametrize("name", BROKEN_WORDS)
def test_iterating_over_a_reader_gives_what_is_before_the_damage_then_an_error_and_then_the_next_buffer(
    make_rig: MakeRig, name: str
) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2, b"12345678")
    rig.descriptor.rotate()
    rig.append(1, b"the next")
    rig.descriptor.finish()
    rig.descriptor.close()
    offset, value = BROKEN_WORDS[name]
    rig.poke(0, HEADER_BYTES + offset, struct.pack("<I", value))
    packets = iter(reader)
    assert [bytes(next(packets)) for _ in range(offset // 40)] == [b"12345678"] * (offset // 40)
    with pytest.raises(CorruptBuffer):
        next(packets)
    assert [bytes(packet) for packet in reader] == [b"the next"]


def test_a_walk_gives_the_packets_before_the_damage(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"12345678", b"12345678")
    rig.poke(0, HEADER_BYTES + 44, bytes(4))
    packets = iter(buffer)
    assert bytes(next(packets)) == b"12345678"
    with pytest.raises(CorruptBuffer, match="at byte 40"):
        next(packets)
    assert list(packets) == []


def test_a_packet_that_became_another_block_is_missed_by_every_walk(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"first", b"then")
    rig.poke(0, HEADER_BYTES + 40, struct.pack("<I", 5))
    packets = iter(buffer)
    assert bytes(next(packets)) == b"first"
    with pytest.raises(CorruptBuffer, match="buffer 0: 1 packets, where its header says 2"):
        next(packets)
    with pytest.raises(CorruptBuffer, match="buffer 0: 1 packets, where its header says 2"):
        buffer.totals()
    with pytest.raises(CorruptBuffer, match="buffer 0: damaged after 1 packets"):
        buffer.index()


@pytest.mark.parametrize("packets", [0, 1, 3])
def test_an_index_notices_a_wrong_count_of_packets(make_rig: MakeRig, packets: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2, bytes(100))
    rig.descriptor.rotate()
    rig.poke(0, 12, struct.pack("<I", packets))
    with pytest.raises(CorruptBuffer):
        take(reader).index()


def test_blocks_that_are_not_aligned_are_an_error_though_they_are_whole(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"12345678", b"12345678")
    rig.poke(0, HEADER_BYTES + 4, struct.pack("<I", 42))
    rig.poke(0, HEADER_BYTES + 42, struct.pack("<7I", 6, 38, 0, 0, 0, 0, 0))
    for walk in WALKS.values():
        with pytest.raises(CorruptBuffer):
            walk(buffer)


def test_an_option_that_its_block_cuts_short_is_left_alone(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(1, b"1234", direction="in")
    rig.descriptor.rotate()
    rig.poke(0, HEADER_BYTES + 32, struct.pack("<3I", 1, 8 << 16 | 4, 77))  # epb_dropcount, with room for half of it
    [packet] = take(reader)
    assert (packet.dropped, packet.direction) == (0, "inout")


# What follows fills its pages to the last byte, and the page behind them can't be read.

GUARDED_BYTES = 3 * PAGE
_PROT_NONE = 0
_libc = ctypes.CDLL(None)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class GuardedRig:
    """A descriptor and a reader on anonymous memory: a step behind the end of buffer A is the end of the process."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, GUARDED_BYTES + PAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        assert _libc.mprotect(address + GUARDED_BYTES, PAGE, _PROT_NONE) == 0
        layout: Any = SimpleNamespace(snaplen=0xFFFFFFFF, buffer_offsets=(2 * PAGE, PAGE), buffer_bytes=PAGE)
        ack = mmap.mmap(-1, PAGE)
        self.doorbell, self.bell = make_doorbell()
        self.descriptor = Descriptor()
        self.descriptor.set_buffers(self.memory, 2 * PAGE, PAGE, PAGE)
        self.descriptor.add_reader(1, ack, self.bell)
        self.reader = SegmentReader(self.memory, layout, ack, doorbell=self.doorbell, sequence=0, spin_ns=0)

    def poke(self, offset: int, *words: int) -> None:
        """Overwrite words of buffer A, header included."""
        struct.pack_into(f"<{len(words)}I", self.memory, 2 * PAGE + offset, *words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.descriptor.close()
        os.close(self.doorbell)
        os.close(self.bell)


@pytest.mark.parametrize("left", range(4, 36, 4))
@pytest.mark.parametrize("walk", WALKS)
def test_a_block_that_begins_at_the_very_end_of_a_buffer_is_not_read_beyond_it(walk: str, left: int) -> None:
    with GuardedRig() as rig:
        rig.descriptor.append_bytes(bytes(CAPACITY - 32))
        rig.descriptor.finish()
        rig.poke(HEADER_BYTES + 4, CAPACITY - left)
        rig.poke(HEADER_BYTES + 20, CAPACITY - left - 32)
        rig.poke(PAGE - left - 4, CAPACITY - left)
        rig.poke(PAGE - left, *[6, left, 0, 0, 0, 0, 0, left][: left // 4])
        if left == 32:
            rig.poke(12, 2)
        buffer = take(rig.reader)
        if left == 32:
            assert len(list(buffer)) == 2  # a packet of no bytes fits
        else:
            with pytest.raises(CorruptBuffer):
                WALKS[walk](buffer)


WORDS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 1, 4, 6, 28, 31, 32, 33, 36, 40, 44, 124, 128, 4 << 16 | 2, 8 << 16 | 4, 0xFFFF0004, CAPACITY]),
)
PLACES = st.integers(0, 60) | st.integers(0, CAPACITY // 4 - 1)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 120) | st.sampled_from([3000]), min_size=1, max_size=20),
    patches=st.lists(st.tuples(PLACES, WORDS), max_size=12),
    length=st.none() | WORDS,
    packets=st.none() | WORDS,
    noise=st.none() | st.randoms(use_true_random=False),
    hang_up=st.booleans(),
)
def test_no_bytes_whatever_lead_a_reader_out_of_its_buffer(
    sizes: list[int],
    patches: list[tuple[int, int]],
    length: int | None,
    packets: int | None,
    noise: random.Random | None,
    hang_up: bool,
) -> None:
    with GuardedRig() as rig:
        for at, size in enumerate(sizes):
            rig.descriptor.append_bytes(bytes(size), direction=("in", "out", "inout")[at % 3])
        if noise:
            rig.memory[2 * PAGE + HEADER_BYTES + 24 : GUARDED_BYTES] = noise.randbytes(CAPACITY - 24)
        for place, value in patches:
            rig.poke(HEADER_BYTES + 4 * place, value)
        if not hang_up:
            rig.descriptor.finish()
        if length is not None:
            rig.poke(64 if hang_up else 4, length)
        if packets is not None:
            rig.poke(12, packets)
        if hang_up:
            rig.reader._note_hang_up()
        try:
            buffer = rig.reader.next_buffer(timeout=0)
        except CorruptBuffer:
            return
        assert buffer is not None or hang_up
        if buffer is not None:
            check_bounds(buffer)


def check_bounds(buffer: Buffer) -> None:
    """Walk in every way: each ends, with an error at most, and gives nothing from outside."""
    size = len(buffer.data)
    assert size <= CAPACITY
    try:
        for packet in buffer:
            assert len(bytes(packet)) == packet.caplen == packet.data.nbytes <= size
            assert isinstance(packet.dropped, int)
            assert packet.direction in ("in", "out", "inout")
        assert buffer.totals()[1] <= size
        assert all(row["offset"] + row["caplen"] <= size for row in buffer.index())
    except CorruptBuffer:
        pass
    buffer.acknowledge()


def test_a_generation_that_jumps_is_taken_as_it_is_and_answered_with_itself(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append()
    rig.descriptor.rotate()
    rig.poke(0, 0, struct.pack("<I", 77))
    take(reader).acknowledge()
    assert user_gens(rig) == (77, 0)
    rig.append()
    rig.descriptor.finish()
    assert len(take(reader)) == 1
    assert take_nothing(reader)  # what has been answered does not come again
