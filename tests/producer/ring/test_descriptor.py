"""A descriptor's two buffers: each function of bpf_zerocopy.c under its plain name, then each rule of the protocol."""

import contextlib
import ctypes
import mmap
import os
import random
import struct
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.rig import (
    CAPACITY,
    ETHERNET,
    HEADER_BYTES,
    LEDGER_FIELDS,
    PACKET,
    PAGE,
    PER_BUFFER,
    Block,
    Rig,
    adds_up,
    parse_blocks,
    read_ledger,
    read_state,
)
from support.two_buffer_model import ModelPacket

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import FilterError, SegmentError, ValueRefused
from zbuf.shared.memory.pcapng import Interface

MakeRig = Callable[..., Rig]
MEMORY_BYTES = 4 * PAGE  # page 0, and room for more than two buffers of a page
REFUSE_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0)  # "ret #0" of bpf(4)
MS = 1_000_000
CLOSED = 4


def keep(size: int) -> bytes:
    """A filter program that accepts so many bytes of every packet: "ret #size"."""
    return struct.pack("<HBBI", 0x06, 0, 0, size)


def numbered(number: int, size: int = 92) -> bytes:
    """A packet that is known again; 92 bytes make PER_BUFFER of them fill a buffer."""
    return (struct.pack("<I", number) * (size // 4 + 1))[:size]


def numbers(packets: Iterable[Block]) -> list[int]:
    """Which numbered() packets these are."""
    return [int.from_bytes(packet.data[:4], "little") for packet in packets]


# ---- append_bytes, append_fragments ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 95, 96, 97, 1000, 1499, 1500])
def test_append_bytes_writes_one_enhanced_packet_block(make_rig: MakeRig, size: int) -> None:
    data = random.Random(size).randbytes(size)
    rig = make_rig()
    rig.descriptor.append_bytes(data, time_ns=2**40 + 5, wirelen=size + 9, interface=3, direction="out")
    assert rig.stored() == ModelPacket(data, size + 9, 2**40 + 5, 3, 2, 0).block()


def test_append_bytes_takes_the_length_on_the_wire_from_the_data_where_none_is_given(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.append_bytes(b"seven b")
    assert parse_blocks(rig.stored()) == [Block(b"seven b", 7, 0, 0)]


def test_append_bytes_puts_each_block_behind_the_one_before(make_rig: MakeRig) -> None:
    rig = make_rig()
    packets = [ModelPacket(numbered(at, size=at), at, at, 0, at % 3, 0) for at in range(40)]
    for packet in packets:
        direction = ("inout", "in", "out")[packet.direction]
        rig.descriptor.append_bytes(packet.data, time_ns=packet.time_ns, direction=direction)
    assert rig.stored() == b"".join(packet.block() for packet in packets)


def test_append_bytes_changes_nothing_behind_what_it_publishes_but_the_rest_of_its_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(PER_BUFFER - 1)
    assert rig.blocks(1) == bytes(CAPACITY)
    assert rig.memory[-PAGE:] == bytes(PAGE)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_append_bytes_takes_any_contiguous_buffer(make_rig: MakeRig, kind: Callable[[bytes], Any]) -> None:
    rig = make_rig()
    rig.descriptor.append_bytes(kind(b"abcde"))
    assert parse_blocks(rig.stored())[0].data == b"abcde"


FRAGMENTS: dict[str, list[Any]] = {
    "none": [],
    "one": [b"0123456789" * 7],
    "empty ones": [b"", b"abc", b"", b"defgh", b""],
    "single bytes": [bytes([value]) for value in range(99)],
    "of many kinds": [b"\1ab", bytearray(b"cdefg"), memoryview(b"xhijkl")[1:], array("H", [1, 2, 3]), b"m" * 200],
    "longer than a buffer": [b"\1" * 3000, b"b" * 900, b"c" * 3000, b"d" * 10],
    "longer than any packet": [b"\1" * 200_000, b"y" * 200_000],
}


def joined(fragments: Iterable[Any]) -> bytes:
    return b"".join(bytes(memoryview(fragment)) for fragment in fragments)


@pytest.mark.parametrize("expression", ["", "ether[0] & 1 = 1", "less 100", "greater 1"])
@pytest.mark.parametrize("name", FRAGMENTS)
def test_append_fragments_makes_the_same_block_as_append_bytes_of_them_joined(
    make_rig: MakeRig, name: str, expression: str
) -> None:
    whole, scattered = make_rig(snaplen=5000), make_rig(snaplen=5000)
    for rig in (whole, scattered):
        rig.descriptor.set_filter(compile_filter(expression, ETHERNET))
    whole.descriptor.append_bytes(joined(FRAGMENTS[name]), time_ns=77, interface=2, direction="in")
    scattered.descriptor.append_fragments(FRAGMENTS[name], time_ns=77, interface=2, direction="in")
    assert scattered.blocks(0) == whole.blocks(0)
    assert scattered.stored() == whole.stored()
    assert scattered.descriptor.ledger() == whole.descriptor.ledger()


@pytest.mark.parametrize("program", [b"", keep(40)], ids=["no filter", "a filter"])
def test_append_fragments_counts_drops_and_losses_as_append_bytes_does(make_rig: MakeRig, program: bytes) -> None:
    whole, scattered = make_rig(), make_rig()
    for rig in (whole, scattered):
        rig.descriptor.set_filter(program)
        reader = rig.plain_reader()
        append: Callable[[bytes], None] = (
            rig.descriptor.append_bytes
            if rig is whole
            else lambda data: scattered.descriptor.append_fragments([data[:30], data[30:]])
        )
        for at in range(2 * CAPACITY // 72 + 20):
            append(numbered(at))
        reader.drain()
        append(b"after the loss")
    assert scattered.descriptor.ledger() == whole.descriptor.ledger()
    assert scattered.descriptor.ledger()["dropped"] > 0
    assert scattered.stored() == whole.stored()
    assert parse_blocks(scattered.stored())[0].dropped == scattered.descriptor.ledger()["dropped"]


def test_append_fragments_refuses_what_is_no_buffer_and_counts_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    no_bytes: Any = "not bytes"
    with pytest.raises(TypeError):
        rig.descriptor.append_fragments([b"abc", no_bytes])
    with pytest.raises(TypeError):
        rig.descriptor.append_bytes(no_bytes)
    assert set(rig.descriptor.ledger().values()) == {0}


@pytest.mark.parametrize(
    "setting",
    [
        {"time_ns": -1},
        {"time_ns": 2**64},
        {"wirelen": -1},
        {"wirelen": 2**32},
        {"interface": -1},
        {"interface": 2**32},
        {"interface": "lab0"},
        {"direction": "up"},
    ],
    ids=str,
)
def test_a_packet_whose_values_do_not_fit_its_block_is_refused_and_not_counted(
    make_rig: MakeRig, setting: dict[str, Any]
) -> None:
    rig = make_rig()
    with pytest.raises(ValueRefused, match=str(next(iter(setting.values())))):
        rig.descriptor.append_bytes(b"abc", **setting)
    with pytest.raises(ValueRefused, match=str(next(iter(setting.values())))):
        rig.descriptor.append_fragments([b"a", b"bc"], **setting)
    assert set(rig.descriptor.ledger().values()) == {0}


# ---- the three slots ---------------------------------------------------------------------------------------


def test_buffer_full_assigns_the_store_as_it_is_once_no_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER - 3)
    assert rig.descriptor.slots()["assigned"] == (True, False)
    rig.append(1, bytes(1000))
    assert rig.descriptor.slots()["assigned"] == (True, True)
    assert reader.take_now().header.packets == PER_BUFFER
    assert reader.take_now().header.packets == PER_BUFFER - 3


def test_buffer_full_does_nothing_to_a_buffer_that_is_assigned_already(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    before = [rig.header(0), rig.header(1), rig.blocks(0), rig.blocks(1)]
    rig.append(50)
    assert [rig.header(0), rig.header(1), rig.blocks(0), rig.blocks(1)] == before
    assert rig.descriptor.ledger()["dropped"] == 51


def test_buffer_held_assigns_what_comes_into_the_hold_slot(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(PER_BUFFER, time_ns=5)
    assert rig.header(0).kernel_gen == 0
    rig.append()
    header = rig.header(0)
    assert (header.kernel_gen, header.kernel_len, header.packets, header.sequence) == (1, CAPACITY, PER_BUFFER, 0)
    assert (header.first_ns, header.last_ns, header.dropped_before) == (5, 5, 0)


def test_buffer_held_does_not_assign_again_what_the_store_had_assigned(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    assert rig.descriptor.slots()["store"] == 1
    reader.take_now()
    reader.acknowledge()
    rig.append()
    slots = rig.descriptor.slots()
    assert (slots["hold"], slots["store"], slots["generations"]) == (1, 0, (1, 1))
    assert rig.header(1).kernel_gen == 1


def test_buffer_reclaimed_empties_the_hold_and_mirrors_the_generation_for_observers(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    reader.take_now()
    assert rig.header(0).user_gen == 0
    reader.acknowledge()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert rig.header(0).user_gen == 1
    assert rig.descriptor.slots()["free"] == 0


def test_can_free_buffer_says_no_until_every_reader_has_acknowledged(make_rig: MakeRig) -> None:
    rig = make_rig()
    readers = [rig.plain_reader(number) for number in range(3)]
    rig.append(PER_BUFFER + 1)
    for reader in reversed(readers):
        assert rig.descriptor.ledger()["delivered"] == 0
        assert rig.descriptor.slots()["hold"] == 0
        reader.take_now()
        reader.acknowledge()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert rig.descriptor.slots()["hold"] is None


def test_can_free_buffer_says_yes_at_once_where_there_is_no_reader(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(10 * PER_BUFFER)
    ledger = rig.descriptor.ledger()
    assert (ledger["dropped"], ledger["abandoned"], ledger["buffered"]) == (0, 9 * PER_BUFFER, PER_BUFFER)


def test_can_write_buffer_keeps_the_producer_off_an_assigned_store(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    rig.append(1, bytes(3900))  # does not fit behind the one packet in the store, and no buffer is free
    before = rig.blocks(1)
    rig.append(1, b"would fit")
    assert rig.blocks(1) == before
    assert rig.descriptor.ledger()["dropped"] == 2


def test_buffers_are_assigned_strictly_in_turn_a_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    for sequence in range(9):
        rig.append(sequence + 1)
        assert rig.descriptor.rotate()
        taken = reader.take_now()
        assert (taken.which, taken.header.sequence, taken.header.kernel_gen) == (
            sequence % 2,
            sequence,
            sequence // 2 + 1,
        )
        assert taken.header.packets == sequence + 1
        reader.acknowledge()


def test_close_marks_the_segment_closed_and_lets_go_of_its_memory(make_rig: MakeRig) -> None:
    rig = make_rig()
    memory = mmap.mmap(-1, MEMORY_BYTES)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    with pytest.raises(BufferError):
        memory.close()
    descriptor.close()
    assert read_state(memory) == CLOSED
    memory.close()
    rig.descriptor.close()
    rig.descriptor.close()
    assert read_state(rig.memory) == CLOSED


def test_close_leaves_the_readers_what_they_were_assigned(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.fill()
    rig.append()
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [taken.header.packets for taken in (reader.take_now(), reader.take_now())] == [PER_BUFFER, 1]


def test_close_lets_go_of_every_ack_page(make_rig: MakeRig) -> None:
    rig = make_rig()
    pages = [rig.sit(number).ack for number in range(3)]
    with pytest.raises(BufferError):
        pages[0].close()
    rig.descriptor.close()
    for page in pages:
        page.close()


def test_a_closed_descriptor_refuses_everything_but_to_tell_its_ledger(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(3)
    rig.descriptor.close()
    refused: list[Callable[[], object]] = [
        lambda: rig.descriptor.append_bytes(PACKET),
        lambda: rig.descriptor.append_fragments([PACKET]),
        rig.descriptor.rotate,
        rig.descriptor.flush,
        rig.descriptor.finish,
        rig.descriptor.abandon,
        lambda: rig.descriptor.tick(1),
        lambda: rig.descriptor.set_filter(b""),
        lambda: rig.descriptor.add_reader(1, mmap.mmap(-1, PAGE), -1),
    ]
    for request in refused:
        with pytest.raises(SegmentError, match="without buffers"):
            request()
    assert rig.descriptor.ledger()["buffered"] == 3


# ---- set_buffers -------------------------------------------------------------------------------------------


def test_max_buffer_bytes_is_a_gibibyte_and_is_asked_without_a_descriptor() -> None:
    assert Descriptor.max_buffer_bytes() == 1 << 30


def test_set_buffers_gives_each_buffer_an_empty_header() -> None:
    memory = mmap.mmap(-1, MEMORY_BYTES)
    memory[PAGE : 3 * PAGE] = b"\xff" * (2 * PAGE)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    assert memory[PAGE : PAGE + 64] == memory[2 * PAGE : 2 * PAGE + HEADER_BYTES - 64] == bytes(64)
    assert descriptor.capacity_bytes == CAPACITY
    assert descriptor.slots()["store"] == 0
    assert descriptor.slots()["free"] == 1
    descriptor.close()


REFUSED_BUFFERS = {
    "first offset unaligned": (PAGE + 4, 3 * PAGE, PAGE, ValueRefused, "not aligned"),
    "second offset unaligned": (PAGE, 2 * PAGE + 2048, PAGE, ValueRefused, "not aligned"),
    "not whole pages": (PAGE, 3 * PAGE, PAGE + 4, ValueRefused, "whole number"),
    "less than a page": (PAGE, 2 * PAGE, 128, ValueRefused, "whole number"),
    "no bytes": (PAGE, 2 * PAGE, 0, ValueRefused, "more than zero"),
    "more than the maximum": (PAGE, 2 * PAGE, (1 << 30) + PAGE, ValueRefused, "more than the maximum"),
    "the same buffer twice": (PAGE, PAGE, PAGE, ValueRefused, "overlap"),
    "overlapping": (PAGE, 2 * PAGE, 2 * PAGE, ValueRefused, "overlap"),
    "overlapping the other way round": (2 * PAGE, PAGE, 2 * PAGE, ValueRefused, "overlap"),
    "over the segment's header": (0, 2 * PAGE, PAGE, ValueRefused, "overlap"),
    "second over the segment's header": (2 * PAGE, 0, PAGE, ValueRefused, "overlap"),
    "end outside the memory": (PAGE, 3 * PAGE, 2 * PAGE, SegmentError, "the memory has 16384"),
    "begin outside the memory": (PAGE, 64 * PAGE, PAGE, SegmentError, "the memory has 16384"),
    "first outside the memory": (4 * PAGE, PAGE, PAGE, SegmentError, "the memory has 16384"),
    "an end that wraps around": (PAGE, 2**64 - PAGE, PAGE, SegmentError, "the memory has 16384"),
    "an offset halfway round": (PAGE, 2**63 + PAGE, PAGE, SegmentError, "the memory has 16384"),
}


@pytest.mark.parametrize("name", REFUSED_BUFFERS)
def test_set_buffers_refuses_and_can_be_asked_again(name: str) -> None:
    offset_a, offset_b, size, error, why = REFUSED_BUFFERS[name]
    memory = mmap.mmap(-1, MEMORY_BYTES)
    descriptor = Descriptor()
    with pytest.raises(error, match=why):
        descriptor.set_buffers(memory, offset_a, offset_b, size)
    with pytest.raises(SegmentError, match="without buffers"):
        descriptor.append_bytes(PACKET)
    memory.resize(MEMORY_BYTES)  # raises where it is still exported
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    descriptor.append_bytes(PACKET)
    descriptor.close()


@pytest.mark.parametrize("offsets", [(-PAGE, PAGE), (PAGE, -PAGE), (PAGE, 2**64)])
def test_set_buffers_refuses_an_offset_that_is_none(offsets: tuple[int, int]) -> None:
    with pytest.raises(OverflowError):
        Descriptor().set_buffers(mmap.mmap(-1, MEMORY_BYTES), *offsets, PAGE)


def test_set_buffers_refuses_memory_at_an_unaligned_address() -> None:
    memory = mmap.mmap(-1, MEMORY_BYTES)
    with pytest.raises(ValueRefused, match="not aligned"):
        Descriptor().set_buffers(memoryview(memory)[64:], PAGE, 2 * PAGE, PAGE)


@pytest.mark.parametrize("memory", [bytes(MEMORY_BYTES), mmap.mmap(-1, MEMORY_BYTES, prot=mmap.PROT_READ)])
def test_set_buffers_refuses_memory_that_is_read_only(memory: Any) -> None:
    with pytest.raises((BufferError, TypeError)):
        Descriptor().set_buffers(memory, PAGE, 2 * PAGE, PAGE)


def test_set_buffers_refuses_to_be_called_twice(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(5)
    before = rig.stored()
    with pytest.raises(SegmentError, match="installed already"):
        rig.descriptor.set_buffers(rig.memory, *rig.offsets, PAGE)
    assert rig.stored() == before


def test_set_buffers_refuses_a_descriptor_that_was_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append()
    rig.descriptor.rotate()
    rig.descriptor.close()
    with pytest.raises(SegmentError):
        rig.descriptor.set_buffers(rig.memory, *rig.offsets, PAGE)


@pytest.mark.parametrize(
    "options",
    [{"snaplen": 0}, {"snaplen": -1}, {"snaplen": 262145}, {"timeout_ms": -1}, {"direction": "up"}],
    ids=str,
)
def test_a_descriptor_refuses_settings_that_can_not_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueRefused, match=str(next(iter(options.values())))):
        Descriptor(**options)


# ---- readers -----------------------------------------------------------------------------------------------


def test_a_reader_gets_nothing_that_was_assigned_before_it_came(make_rig: MakeRig) -> None:
    rig = make_rig()
    first = rig.plain_reader(1)
    rig.append(2 * PER_BUFFER + 1)
    second = rig.plain_reader(2)
    assert second.sequence == 2
    assert second.take() is None
    assert len(first.drain()) == 2 * PER_BUFFER
    rig.append(4)
    rig.descriptor.rotate()
    assert len(second.drain()) == 4


def test_a_reader_that_joins_gets_what_is_stored_and_not_assigned_yet(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(3)
    reader = rig.plain_reader()
    rig.descriptor.rotate()
    assert len(reader.drain()) == 3


def test_a_second_reader_of_the_same_number_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.sit(7)
    with pytest.raises(ValueRefused, match="reader 7 is there already"):
        rig.descriptor.add_reader(7, mmap.mmap(-1, PAGE), -1)


def test_an_ack_page_that_is_too_short_or_read_only_is_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    with pytest.raises(SegmentError, match="too short"):
        rig.descriptor.add_reader(1, bytearray(63), -1)
    with pytest.raises((BufferError, TypeError)):
        rig.descriptor.add_reader(1, bytes(PAGE), -1)
    rig.descriptor.add_reader(1, bytearray(64), -1)


def test_questions_about_a_reader_that_is_not_there_are_refused(make_rig: MakeRig) -> None:
    rig = make_rig()
    with pytest.raises(ValueRefused, match="reader 3 is not there"):
        rig.descriptor.remove_reader(3)
    with pytest.raises(ValueRefused, match="reader 3 is not there"):
        rig.descriptor.reader_counts(3)


def test_reader_counts_tells_what_was_acknowledged_and_what_is_owed(make_rig: MakeRig) -> None:
    rig = make_rig()
    quick, slow = rig.plain_reader(1), rig.plain_reader(2)
    rig.append(2 * PER_BUFFER + 1)
    assert rig.descriptor.reader_counts(1) == (0, 2)
    quick.drain()
    assert rig.descriptor.reader_counts(1) == (2 * PER_BUFFER, 0)
    slow.take_now()
    slow.acknowledge()
    assert rig.descriptor.reader_counts(2) == (PER_BUFFER, 1)


def test_a_leaving_reader_is_no_longer_waited_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    quick = rig.plain_reader(1)
    rig.plain_reader(2)
    rig.append(2 * PER_BUFFER + 1)
    quick.drain()
    assert rig.descriptor.ledger()["delivered"] == 0
    assert rig.descriptor.remove_reader(2) == 0
    assert rig.descriptor.ledger()["delivered"] == 2 * PER_BUFFER
    assert rig.descriptor.ledger()["abandoned"] == 0


def test_what_the_last_reader_did_not_acknowledge_is_abandoned(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    reader.take_now()
    reader.acknowledge()
    assert rig.descriptor.remove_reader(1) == PER_BUFFER
    ledger = rig.descriptor.ledger()
    assert (ledger["delivered"], ledger["abandoned"], ledger["buffered"]) == (PER_BUFFER, PER_BUFFER, 0)


def test_a_leaving_reader_is_credited_with_the_second_buffer_though_another_holds_the_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    quick = rig.plain_reader(1)
    rig.plain_reader(2)
    rig.append(2 * PER_BUFFER + 1)
    quick.drain()
    assert rig.descriptor.remove_reader(1) == 2 * PER_BUFFER
    rig.descriptor.remove_reader(2)
    assert rig.descriptor.ledger()["delivered"] == 2 * PER_BUFFER
    assert rig.descriptor.ledger()["abandoned"] == 0


def test_a_reader_may_own_both_buffers_and_acknowledge_the_second_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    reader.take_now()
    second = reader.take_now()
    reader.acknowledge(second)
    assert rig.descriptor.ledger()["delivered"] == 0  # they come back in turn
    reader.acknowledge()
    assert rig.descriptor.ledger()["delivered"] == 2 * PER_BUFFER
    rig.append(5)
    rig.descriptor.rotate()
    assert len(reader.drain()) == 5


def test_removing_a_reader_lets_go_of_its_ack_page_and_of_no_other(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second = rig.sit(1).ack, rig.sit(2).ack
    rig.descriptor.remove_reader(1)
    first.close()
    with pytest.raises(BufferError):
        second.close()


# ---- truncation: never dropped, its original length kept -----------------------------------------------------


def test_a_packet_longer_than_the_snaplen_is_cut_and_keeps_its_original_length(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=61)
    rig.descriptor.append_bytes(numbered(1, 61))
    rig.descriptor.append_bytes(numbered(2, 62))
    rig.descriptor.append_bytes(numbered(3, 1500), wirelen=9000)
    packets = parse_blocks(rig.stored())
    assert [(len(packet.data), packet.wirelen) for packet in packets] == [(61, 61), (61, 62), (61, 9000)]
    assert rig.descriptor.ledger()["truncated"] == 2
    assert rig.descriptor.ledger()["dropped"] == 0


@pytest.mark.parametrize(
    ("direction", "room"), [("inout", CAPACITY - 32), ("in", CAPACITY - 44)], ids=["no options", "direction"]
)
def test_a_packet_larger_than_a_buffer_is_cut_to_fill_it(make_rig: MakeRig, direction: str, room: int) -> None:
    rig = make_rig()
    rig.plain_reader()
    for size in (room, room + 1):
        rig.descriptor.append_bytes(numbered(size, size), direction=direction)
        [packet] = parse_blocks(rig.stored())
        assert (packet.data, packet.wirelen) == (numbered(size, size)[:room], size)
    assert rig.descriptor.ledger()["truncated"] == 1
    assert rig.descriptor.ledger()["dropped"] == 0


def test_a_packet_cut_to_a_buffer_leaves_room_for_its_dropcount(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    reader.drain()
    rig.descriptor.append_bytes(bytes(5000), direction="out")
    [packet] = parse_blocks(rig.stored())
    assert (len(packet.data), packet.wirelen, packet.dropped, packet.direction) == (CAPACITY - 56, 5000, 1, 2)


def test_no_packet_is_longer_than_libpcap_allows_however_large_the_buffers_are(make_rig: MakeRig) -> None:
    rig = make_rig(buffer_bytes=1 << 20)
    rig.descriptor.append_bytes(bytes(262144))
    rig.descriptor.append_bytes(bytes(400_000))
    rig.descriptor.append_fragments([bytes(262144), b"!"])
    packets = parse_blocks(rig.stored())
    assert [(len(packet.data), packet.wirelen) for packet in packets] == [
        (262144, 262144),
        (262144, 400_000),
        (262144, 262145),
    ]
    assert rig.descriptor.ledger()["truncated"] == 2


def test_a_filter_says_how_many_bytes_of_a_packet_are_kept(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=70)
    rig.descriptor.set_filter(keep(40))
    rig.descriptor.append_bytes(numbered(1, 40))
    rig.descriptor.append_bytes(numbered(2, 60))
    rig.descriptor.set_filter(keep(80), flush=False)
    rig.descriptor.append_bytes(numbered(3, 90))
    packets = parse_blocks(rig.stored())
    assert [(len(packet.data), packet.wirelen) for packet in packets] == [(40, 40), (40, 60), (70, 90)]
    assert rig.descriptor.ledger()["truncated"] == 2


# ---- immediate mode, the read timeout, rotate ----------------------------------------------------------------


def test_immediate_mode_assigns_each_packet_at_once_while_a_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    for at in range(5):
        rig.descriptor.append_bytes(numbered(at))
        taken = reader.take_now()
        assert numbers(taken.packets) == [at]
        reader.acknowledge()


def test_immediate_mode_gathers_packets_while_no_buffer_is_free_and_assigns_them_with_the_next(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    for at in range(4):
        rig.descriptor.append_bytes(numbered(at))
    assert numbers(reader.drain()) == [0]
    rig.descriptor.append_bytes(numbered(4))
    assert numbers(reader.drain()) == [1, 2, 3, 4]


def test_immediate_mode_leaves_no_packet_behind_once_the_hold_comes_back(make_rig: MakeRig) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    rig.append(2)
    assert len(reader.drain()) == 1
    rig.descriptor.tick(1)
    assert len(reader.drain()) == 1


def test_the_read_timeout_assigns_a_waiting_store_at_the_first_tick_that_is_late_enough_and_at_none_before(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(3)
    for now_ns in (5, 6, 5 + 10 * MS - 1):
        rig.descriptor.tick(now_ns)
        assert reader.take() is None
    rig.descriptor.tick(5 + 10 * MS)
    assert len(reader.drain()) == 3


def test_the_read_timeout_counts_anew_for_each_filling(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append()
    rig.descriptor.tick(0)
    rig.descriptor.tick(9 * MS)
    rig.descriptor.rotate()
    rig.append()
    assert len(reader.drain()) == 1
    rig.descriptor.tick(10 * MS)  # the first that sees the second packet
    assert reader.take() is None
    rig.descriptor.tick(20 * MS - 1)
    assert reader.take() is None
    rig.descriptor.tick(20 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_counts_anew_after_a_flush(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append()
    rig.descriptor.tick(0)
    rig.descriptor.flush()
    rig.append()
    rig.descriptor.tick(15 * MS)
    assert reader.take() is None
    rig.descriptor.tick(25 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_never_assigns_an_empty_store(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    rig.plain_reader()
    for now_ns in range(0, 100 * MS, MS):
        rig.descriptor.tick(now_ns)
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_the_read_timeout_reclaims_an_acknowledged_hold_before_it_looks(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    rig.descriptor.tick(0)
    assert len(reader.drain()) == PER_BUFFER
    rig.descriptor.tick(10 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_waits_while_the_hold_is_owed_and_strikes_once_it_is_back(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    for now_ns in range(0, 100 * MS, 10 * MS):
        rig.descriptor.tick(now_ns)
    assert rig.descriptor.slots()["next_sequence"] == 1
    assert len(reader.drain()) == PER_BUFFER
    rig.descriptor.tick(100 * MS)
    assert len(reader.drain()) == 1


def test_without_a_read_timeout_a_tick_assigns_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append()
    for now_ns in (0, 10**18, 2**64 - 1):
        rig.descriptor.tick(now_ns)
    assert reader.take() is None


def test_rotate_assigns_a_store_that_is_not_full(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2, time_ns=9)
    assert rig.descriptor.rotate() is True
    assert len(reader.drain()) == 2


def test_rotate_does_nothing_to_an_empty_store(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    assert rig.descriptor.rotate() is False
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_rotate_does_nothing_while_no_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    assert rig.descriptor.rotate() is False
    assert rig.descriptor.slots()["assigned"] == (True, False)


def test_rotate_reclaims_an_acknowledged_hold_first_and_so_strands_no_tail(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    assert len(reader.drain()) == PER_BUFFER
    assert rig.descriptor.slots()["hold"] == 0  # nobody has looked yet
    assert rig.descriptor.rotate() is True
    assert len(reader.drain()) == 5


def test_finish_assigns_the_tail_though_the_hold_is_still_owed(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    assert [taken.header.packets for taken in (reader.take_now(), reader.take_now())] == [PER_BUFFER, 5]


def test_finish_assigns_no_empty_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.descriptor.finish()
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_abandon_accounts_for_everything_that_nobody_will_take(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(7)
    rig.descriptor.abandon()
    assert rig.descriptor.ledger()["abandoned"] == 7
    assert rig.descriptor.ledger()["buffered"] == 0
    rig.descriptor.close()
    assert adds_up(read_ledger(rig.memory))


# ---- losses ------------------------------------------------------------------------------------------------


def test_packets_are_dropped_and_counted_while_the_readers_have_both_buffers(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    for at in range(2 * PER_BUFFER + 10):
        rig.descriptor.append_bytes(numbered(at))
    assert rig.descriptor.ledger()["dropped"] == 10
    assert numbers(reader.drain()) == list(range(2 * PER_BUFFER))


@pytest.mark.parametrize("lost", [1, 3, 500])
def test_the_first_packet_after_a_loss_tells_how_many_were_lost_and_no_other_does(make_rig: MakeRig, lost: int) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + lost)
    assert [packet.dropped for packet in reader.drain()] == [0] * 2 * PER_BUFFER
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    first, second = reader.take_now(), reader.take_now()
    assert [packet.dropped for packet in first.packets + second.packets] == [lost] + [0] * (PER_BUFFER + 4)
    assert (first.header.dropped_before, second.header.dropped_before) == (lost, 0)


def test_a_loss_is_told_once_though_packets_are_refused_by_the_filter_in_between(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.descriptor.set_filter(compile_filter("greater 50", ETHERNET))
    rig.append(2 * PER_BUFFER + 4)
    reader.drain()
    rig.append(5, b"refused")
    rig.append(2)
    assert [packet.dropped for packet in parse_blocks(rig.stored())] == [4, 0]
    rig.descriptor.rotate()
    assert reader.take_now().header.dropped_before == 4


# ---- filter, direction, flush --------------------------------------------------------------------------------


def test_a_filter_decides_over_the_packets_that_come_after_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(1, b"before")
    rig.descriptor.set_filter(compile_filter("greater 50", ETHERNET), flush=False)
    rig.append(3, b"refused")
    rig.append(2)
    ledger = rig.descriptor.ledger()
    assert (ledger["received"], ledger["filtered"], ledger["accepted"]) == (6, 3, 3)
    assert [packet.data for packet in parse_blocks(rig.stored())] == [b"before", PACKET, PACKET]


def test_a_filter_sees_the_length_on_the_wire_and_not_what_was_captured(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.set_filter(compile_filter("greater 50", ETHERNET))
    rig.append(1, b"short", wirelen=51)
    rig.append(1, b"short", wirelen=49)
    assert rig.descriptor.ledger()["filtered"] == 1


def test_an_empty_program_accepts_everything_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.set_filter(REFUSE_ALL)
    rig.append()
    rig.descriptor.set_filter(b"", flush=False)
    rig.append()
    assert rig.descriptor.ledger()["filtered"] == 1
    assert rig.descriptor.ledger()["accepted"] == 1


def test_set_filter_with_a_flush_discards_what_the_old_one_let_in(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(3)
    rig.descriptor.set_filter(keep(10))
    assert rig.stored() == b""
    assert set(rig.descriptor.ledger().values()) == {0}


def test_set_filter_without_a_flush_keeps_what_the_old_one_let_in(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(3)
    rig.descriptor.set_filter(keep(10), flush=False)
    assert len(parse_blocks(rig.stored())) == 3
    assert rig.descriptor.ledger()["received"] == 3


def broken(code: int, operand: int = 0, jump: int = 0) -> bytes:
    """A program of one instruction and a return."""
    return struct.pack("<HBBI", code, jump, 0, operand) + keep(1)


INVALID_PROGRAMS = {
    "not whole instructions": b"x" * 12,
    "less than one": b"x",
    "no return at the end": struct.pack("<HBBI", 0x00, 0, 0, 0),
    "a jump out of it": broken(0x05, operand=1000),
    "a conditional jump out of it": broken(0x15, jump=200),
    "no such scratch memory": broken(0x60, operand=16),
    "a division by zero": broken(0x34),
    "no such operation": broken(0x00F4),
}
# bpf_validate() lets these pass, and bpf_filter() aborts the process at them.
NO_SUCH_INSTRUCTIONS = {f"instruction {code:#x}": broken(code) for code in (0x17, 0xF7, 0x100, 0x0400, 0xFFFF)}


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize(
    "program",
    [
        *(pytest.param(program, id=name) for name, program in (INVALID_PROGRAMS | NO_SUCH_INSTRUCTIONS).items()),
        pytest.param(broken(0x8C), id="instruction 0x8c"),
    ],
)
def test_an_invalid_program_is_refused_and_the_old_one_stays(make_rig: MakeRig, program: bytes, flush: bool) -> None:
    rig = make_rig()
    rig.descriptor.set_filter(compile_filter("greater 50", ETHERNET))
    rig.append(1)
    with pytest.raises(FilterError, match=f"{len(program)} bytes"):
        rig.descriptor.set_filter(program, flush)
    rig.append(1, b"refused still")
    ledger = rig.descriptor.ledger()
    assert (ledger["received"], ledger["filtered"], ledger["accepted"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("setting", "seen"), [("in", ["in", "inout"]), ("out", ["out", "inout"]), ("inout", ["in", "out", "inout"])]
)
def test_direction_passes_packets_of_that_direction_and_of_none(
    make_rig: MakeRig, setting: str, seen: list[str]
) -> None:
    rig = make_rig(direction=setting)
    for direction in ("in", "out", "inout"):
        rig.append(1, direction.encode(), direction=direction)
        rig.descriptor.append_fragments([direction.encode()], direction=direction)
    assert [packet.data.decode() for packet in parse_blocks(rig.stored())] == [name for name in seen for _ in range(2)]
    assert rig.descriptor.ledger()["received"] == 2 * len(seen)  # the others it never had


def test_direction_is_told_with_each_packet(make_rig: MakeRig) -> None:
    rig = make_rig()
    for direction in ("in", "out", "inout"):
        rig.append(1, direction=direction)
    assert [packet.direction for packet in parse_blocks(rig.stored())] == [1, 2, 0]


def test_flush_empties_the_store_and_zeroes_the_counters(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=50)
    reader = rig.plain_reader()
    rig.append(5)
    rig.descriptor.flush()
    assert set(rig.descriptor.ledger().values()) == {0}
    assert rig.header(0).stored_bytes == 0
    assert rig.descriptor.rotate() is False
    rig.descriptor.append_bytes(numbered(8))
    rig.descriptor.rotate()
    assert numbers(reader.drain()) == [8]


def test_flush_leaves_the_readers_what_is_assigned_and_the_ledger_goes_on_from_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.flush()
    ledger = rig.descriptor.ledger()
    assert (ledger["received"], ledger["accepted"], ledger["buffered"]) == (PER_BUFFER,) * 3
    assert len(reader.drain()) == PER_BUFFER
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert adds_up(rig.descriptor.ledger())


def test_flush_leaves_a_store_that_is_assigned_already(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 5)
    rig.descriptor.flush()
    assert rig.descriptor.ledger()["buffered"] == 2 * PER_BUFFER
    assert rig.descriptor.ledger()["dropped"] == 0
    assert len(reader.drain()) == 2 * PER_BUFFER
    rig.append()
    assert parse_blocks(rig.stored())[0].dropped == 0  # the losses are forgotten too


def test_flush_reclaims_a_hold_that_is_acknowledged(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    reader.drain()
    rig.descriptor.flush()
    assert rig.descriptor.slots()["hold"] is None
    assert set(rig.descriptor.ledger().values()) == {0}


# ---- the ledger --------------------------------------------------------------------------------------------


def test_the_ledger_adds_up_after_every_step_and_so_does_the_segments_copy(make_rig: MakeRig) -> None:
    chance = random.Random(8)
    rig = make_rig(snaplen=900)
    rig.descriptor.set_filter(compile_filter("greater 60", ETHERNET))
    readers = {number: rig.plain_reader(number) for number in (1, 2)}
    steps: list[Callable[[], object]] = [
        lambda: rig.append(chance.randrange(30), bytes(chance.randrange(1200))),
        rig.descriptor.rotate,
        lambda: readers[1].drain(),
        lambda: readers[2].drain(),
    ]
    for _ in range(2000):
        chance.choices(steps, [4, 1, 2, 2])[0]()
        assert adds_up(read_ledger(rig.memory))
        assert adds_up(rig.descriptor.ledger())
        assert read_ledger(rig.memory) == rig.descriptor.ledger()
    assert all(rig.descriptor.ledger().values()) is False  # nobody left: nothing is abandoned
    assert rig.descriptor.ledger()["abandoned"] == 0
    counts = rig.descriptor.ledger()
    assert min(counts[name] for name in counts if not name.startswith(("abandoned", "buffered"))) > 0


def test_the_segments_ledger_is_exact_once_it_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    reader.drain()
    rig.descriptor.close()
    assert read_ledger(rig.memory) == rig.descriptor.ledger()
    assert read_ledger(rig.memory)["delivered"] == PER_BUFFER + 5


def descriptor_words(descriptor: Descriptor) -> ctypes.Array[ctypes.c_uint64]:
    """The memory of the extension object itself, which is where its counters are."""
    size: int = type(descriptor).__basicsize__
    return (ctypes.c_uint64 * (size // 8)).from_address(id(descriptor))


def pretend_counters(rig: Rig, **counters: int) -> None:
    """Have a descriptor believe that it has counted so far."""
    known = tuple(rig.descriptor.ledger()[name] for name in LEDGER_FIELDS)
    words = descriptor_words(rig.descriptor)
    places = [at for at in range(len(words) - len(known) + 1) if tuple(words[at : at + len(known)]) == known]
    assert len(places) == 1, "the counters are not where this test looks for them"
    for name, count in counters.items():
        words[places[0] + LEDGER_FIELDS.index(name)] = count


def test_counters_go_on_past_thirty_two_bits(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=50)
    reader = rig.plain_reader()
    rig.descriptor.set_filter(compile_filter("greater 10", ETHERNET))
    rig.append(3)
    rig.append(2, b"refused")
    edge = 2**32 - 1
    pretend_counters(
        rig, received=4 * edge + 3, filtered=edge, accepted=3 * edge + 3, delivered=edge, dropped=edge, abandoned=edge
    )
    rig.append(200)
    rig.append(1, b"refused")
    reader.drain()
    rig.descriptor.remove_reader(1)
    rig.append(100)
    ledger = rig.descriptor.ledger()
    assert adds_up(ledger)
    assert ledger["received"] == 4 * edge + 3 + 301
    assert min(ledger[name] for name in LEDGER_FIELDS[:6]) >= 2**32
    assert read_ledger(rig.memory) == ledger


def test_a_loss_of_more_than_thirty_two_bits_is_told_in_full(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 77)
    words = descriptor_words(rig.descriptor)
    [place] = [at for at in range(len(words)) if words[at] == 77 and words[at + 1] == 2]  # lost, then next_sequence
    words[place] = 2**40 + 77
    reader.drain()
    rig.append()
    rig.descriptor.rotate()
    taken = reader.take_now()
    assert taken.packets[0].dropped == taken.header.dropped_before == 2**40 + 77


def test_generations_may_wrap(make_rig: MakeRig) -> None:
    rig = make_rig()
    pretend_generations(rig, 2**32 - 2)
    reader = rig.plain_reader()
    generations = []
    for at in range(6):
        rig.descriptor.append_bytes(numbered(at))
        assert rig.header(at % 2).store_gen == (2**32 - 2 + at // 2 + 1) % 2**32
        assert rig.descriptor.rotate()
        taken = reader.take_now()
        generations.append(taken.header.kernel_gen)
        assert numbers(taken.packets) == [at]
        reader.acknowledge()
    assert generations == [2**32 - 1, 2**32 - 1, 0, 0, 1, 1]
    assert rig.descriptor.ledger()["delivered"] == 6


def pretend_generations(rig: Rig, generation: int) -> None:
    """Have a descriptor believe that each buffer was assigned so many times."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(rig.memory))
    words = descriptor_words(rig.descriptor)
    for which, offset in enumerate(rig.offsets):
        [place] = [at for at in range(len(words)) if words[at] == first + offset]  # zbuf.header, blocks, then gen
        assert words[place + 1] == first + offset + HEADER_BYTES
        words[place + 2] = generation
        rig.poke(which, 0, struct.pack("<I", generation))


# ---- doorbells ---------------------------------------------------------------------------------------------


def test_an_assignment_rings_for_readers_that_sleep_and_for_no_other(make_rig: MakeRig) -> None:
    rig = make_rig()
    awake, asleep = rig.sit(1), rig.sit(2)
    asleep.sleeping = 1
    rig.append()
    assert asleep.rings == 0
    rig.descriptor.rotate()
    assert (awake.rings, asleep.rings, rig.descriptor.bells) == (0, 1, 1)
    asleep.sleeping = 0
    rig.descriptor.remove_reader(1)
    rig.descriptor.rotate()
    assert asleep.rings == 0


def test_every_kind_of_assignment_rings(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=1)
    seat = rig.sit()
    seat.sleeping = 1
    rig.append(PER_BUFFER + 1)  # a rotation for want of room
    assert seat.rings == 1
    rig.append(1, bytes(3900))  # no buffer is free
    assert seat.rings == 1


@pytest.mark.parametrize("request_assignment", ["rotate", "tick", "finish", "immediate"])
def test_an_assignment_on_request_rings_too(make_rig: MakeRig, request_assignment: str) -> None:
    rig = make_rig(timeout_ms=1, immediate=request_assignment == "immediate")
    seat = rig.sit()
    seat.sleeping = 1
    rig.append()
    if request_assignment == "tick":
        rig.descriptor.tick(0)
        rig.descriptor.tick(MS)
    elif request_assignment != "immediate":
        getattr(rig.descriptor, request_assignment)()
    assert seat.rings == (2 if request_assignment == "finish" else 1)  # which tells of the end, too


def test_a_doorbell_that_is_full_or_hung_up_holds_nobody_up(make_rig: MakeRig) -> None:
    rig = make_rig()
    full, gone = rig.plain_reader(1), rig.plain_reader(2)
    for seat in rig.seats.values():
        seat.sleeping = 1
    fill_pipe(rig.seats[1].bell)
    rig.seats[2].close()
    del rig.seats[2]
    rig.append()
    assert rig.descriptor.rotate()
    assert len(full.drain()) == len(gone.drain()) == 1


def fill_pipe(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(PAGE))


# ---- a hostile reader ----------------------------------------------------------------------------------------


def test_a_reader_can_not_take_an_acknowledgement_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    hostile, honest = rig.plain_reader(1), rig.plain_reader(2)
    rig.append(PER_BUFFER + 1)
    hostile.take_now()
    hostile.acknowledge()
    assert rig.descriptor.reader_counts(1) == (PER_BUFFER, 0)
    struct.pack_into("<I", hostile.ack, 0, 0)
    assert rig.descriptor.reader_counts(1) == (PER_BUFFER, 0)
    honest.drain()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert rig.descriptor.slots()["free"] == 0


def test_a_reader_that_acknowledges_for_ever_is_counted_once_a_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    hostile = rig.plain_reader(1)
    rig.plain_reader(2)
    rig.append(PER_BUFFER + 1)
    for value in (0, 1, 0, 1, 1):
        struct.pack_into("<I", hostile.ack, 0, value)
        rig.descriptor.ledger()
    assert rig.descriptor.reader_counts(1) == (PER_BUFFER, 0)
    assert rig.descriptor.ledger()["delivered"] == 0


@pytest.mark.parametrize("seed", range(6))
def test_a_hostile_ack_page_harms_nobody_but_its_reader(make_rig: MakeRig, seed: int) -> None:
    chance = random.Random(seed)
    rig = make_rig(immediate=seed % 2 == 1, timeout_ms=seed % 3)
    hostile = rig.sit(1)
    honest = rig.plain_reader(2)
    received: list[int] = []
    appended = 0
    for now_ns in range(0, 3000 * MS, MS):
        scribble(chance, hostile.reader_ack, [rig.header(0).kernel_gen, rig.header(1).kernel_gen])
        for _ in range(chance.choice([0, 1, 3, 10])):
            rig.descriptor.append_bytes(numbered(appended, chance.choice([92, 300])))
            appended += 1
        rig.descriptor.tick(now_ns)
        if chance.random() < 0.3:
            rig.descriptor.rotate()
        for held in honest.held:
            assert honest.blocks(held.which, held.header.kernel_len) == held.blocks, "written while it was owed"
        if chance.random() < 0.4 and (taken := honest.take()):
            received += numbers(taken.packets)
        if chance.random() < 0.4 and honest.held:
            honest.acknowledge()
        assert adds_up(rig.descriptor.ledger())
        assert rig.descriptor.ledger()["received"] == appended
        assert rig.descriptor.reader_counts(1)[0] <= appended
    assert received == sorted(set(received))
    assert len(received) > 500
    assert rig.descriptor.ledger()["dropped"] > 0


def scribble(chance: random.Random, ack: mmap.mmap, generations: list[int]) -> None:
    """Write what an ack page should not hold, and now and then what it should."""
    for which in range(2):
        near = (generations[which] + chance.choice([-1, 0, 0, 1])) % 2**32
        value = chance.choice([near, near, chance.randrange(2**32), 0, 2**32 - 1])
        struct.pack_into("<I", ack, 4 * which, value)
    ack[8:PAGE] = chance.randbytes(PAGE - 8) if chance.random() < 0.05 else ack[8:PAGE]
    struct.pack_into("<I", ack, 8, chance.choice([0, 1, chance.randrange(2**32)]))


@pytest.mark.parametrize("seed", range(4))
def test_a_hostile_reader_alone_never_has_an_unacknowledged_buffer_overwritten(make_rig: MakeRig, seed: int) -> None:
    chance = random.Random(seed)
    rig = make_rig()
    seat = rig.sit()
    owed: dict[int, tuple[int, bytes]] = {}  # of each buffer that was not acknowledged: its generation, its bytes
    overwritten = 0
    for appended in range(4000):
        scribble(chance, seat.reader_ack, [rig.header(0).kernel_gen, rig.header(1).kernel_gen])
        said = struct.unpack_from("<II", seat.reader_ack)
        rig.descriptor.append_bytes(numbered(appended, chance.choice([92, 1000])))
        for which in range(2):
            generation = rig.header(which).kernel_gen
            if which in owed and said[which] == owed[which][0]:
                del owed[which]
                overwritten += 1
            if which in owed:
                assert (generation, rig.blocks(which)) == owed[which]
            elif generation != said[which] and rig.descriptor.slots()["assigned"][which]:
                owed[which] = generation, rig.blocks(which)
        assert adds_up(rig.descriptor.ledger())
    assert overwritten > 20


# ---- memory ------------------------------------------------------------------------------------------------


def test_a_descriptor_that_is_dropped_lets_go_of_its_memory() -> None:
    memory, ack = mmap.mmap(-1, MEMORY_BYTES), mmap.mmap(-1, PAGE)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    descriptor.add_reader(1, ack, -1)
    descriptor.set_filter(keep(5))
    del descriptor
    memory.close()
    ack.close()


def test_blocks_of_several_interfaces_carry_their_numbers(make_rig: MakeRig) -> None:
    rig = make_rig(interfaces=[Interface("lab0", ETHERNET), Interface("lab1", ETHERNET)])
    for interface in (1, 0, 1):
        rig.append(1, interface=interface)
    assert [packet.interface for packet in parse_blocks(rig.stored())] == [1, 0, 1]
