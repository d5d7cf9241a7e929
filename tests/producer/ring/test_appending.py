"""A descriptor appends packets: one block for each, whole or cut, with what was lost before it."""

import mmap
import random
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from support.numbered_packets import MEMORY_BYTES, MakeRig, keep, numbered, numbers
from support.rig import CAPACITY, ETHERNET, PAGE, PER_BUFFER, Block, parse_blocks
from support.two_buffer_model import ModelPacket

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.pcapng import Interface

# ---- append_bytes, append_fragments ---------------------------------------------------------------------------------


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


# ---- truncation: never dropped, its original length kept ------------------------------------------------------------


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


# ---- losses ---------------------------------------------------------------------------------------------------------


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


# ---- memory ---------------------------------------------------------------------------------------------------------


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
