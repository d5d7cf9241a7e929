"""Interfaces that appear while a descriptor is in use, and filters for each link type."""

import struct
from collections.abc import Callable, Iterator

import pytest
from support.rig import CAPACITY, ETHERNET, PER_BUFFER, Block, PlainReader, Rig, adds_up, parse_blocks

from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.producer.filters import REFUSE_ALL, compile_filter
from zbuf.shared.errors import CorruptBuffer, FilterError, SegmentError, ValueRefused
from zbuf.shared.memory.pcapng import Interface, described, interface_description, interfaces

RAW_IP = 101
MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(**({"growth_bytes": 4096} | options)))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def block_of(name: str, linktype: int = ETHERNET) -> bytes:
    return interface_description(Interface(name, linktype), 262144)


def split(blocks: bytes) -> tuple[list[str], list[Block]]:
    """The names of the interfaces that a buffer's blocks begin with, and the packets behind them."""
    end = 0
    while end < len(blocks) and struct.unpack_from("<I", blocks, end) == (1,):
        end += struct.unpack_from("<I", blocks, end + 4)[0]
    return [interface.name for interface in described(blocks[:end])], parse_blocks(blocks[end:])


def described_by(rig: Rig) -> list[str]:
    layout = rig.segment.layout
    (length,) = struct.unpack_from("<Q", rig.memory, 40)
    return [one.name for one in interfaces(rig.memory[layout.prologue_offset : layout.prologue_offset + length])]


def assigned(reader: PlainReader) -> list[tuple[int, list[str], int]]:
    """Of each buffer that is taken and given back: interfaces announced so far, those at its head, its packets."""
    found = []
    while (taken := reader.take()) is not None:
        found.append((taken.header.interfaces, split(taken.blocks)[0], taken.header.packets))
        reader.acknowledge(taken)
    return found


def test_an_interface_is_announced_at_the_head_of_an_empty_store_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.descriptor.announce(block_of("late"))
    rig.append(1, interface=1)
    rig.descriptor.rotate()
    assert assigned(reader) == [(2, ["late"], 1)]
    assert described_by(rig) == ["lab0", "late"]


def test_packets_wait_for_the_next_buffer_where_the_store_has_some(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(3)
    rig.descriptor.announce(block_of("late"))
    assert rig.descriptor.slots()["packets"] == (3, 0)
    rig.append(2, interface=1)
    rig.descriptor.finish()
    assert assigned(reader) == [(1, [], 3), (2, ["late"], 2)]


def test_several_that_appear_at_once_are_announced_together_and_in_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append()
    for name in ("a", "b", "c"):
        rig.descriptor.announce(block_of(name))
    assert rig.descriptor.interfaces_to_come() == 4
    rig.append(1, interface=3)
    rig.descriptor.finish()
    assert assigned(reader) == [(1, [], 1), (4, ["a", "b", "c"], 1)]


def test_more_than_one_buffer_holds_go_on_in_the_next(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    names = [f"interface{number}" + "x" * 900 for number in range(10)]
    rig.append()
    for name in names:
        rig.descriptor.announce(block_of(name))
    found: list[tuple[int, list[str], int]] = []
    for _ in range(5):
        rig.append(1, interface=10)
        found += assigned(reader)
    rig.descriptor.rotate()
    found += assigned(reader)
    assert [name for _, head, _ in found for name in head] == names
    counts = [packets for _, head, packets in found]
    assert counts[0] == 1
    assert all(interfaces <= 11 for interfaces, _, _ in found)
    ledger = rig.descriptor.ledger()
    assert ledger["dropped"] + sum(counts) == 6
    assert adds_up(ledger)


def test_no_packet_goes_behind_an_announcement_that_waits_for_a_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)  # A is with the reader
    rig.descriptor.announce(block_of("late"))
    rig.append(1, interface=1)  # and there is no other for the store to go to
    assert rig.descriptor.ledger()["dropped"] == 1
    assert assigned(reader) == [(1, [], PER_BUFFER), (1, [], 1)]
    rig.append(1, interface=1)
    rig.descriptor.rotate()
    assert assigned(reader) == [(2, ["late"], 1)]


def test_a_flush_keeps_what_is_announced(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.descriptor.announce(block_of("late"))
    rig.append(5, interface=1)
    rig.descriptor.flush()
    rig.append(2, interface=1)
    rig.descriptor.rotate()
    assert assigned(reader) == [(2, ["late"], 2)]


def test_a_reader_that_joins_is_told_what_was_announced_before_its_first_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    first = rig.plain_reader(1)
    rig.descriptor.announce(block_of("second"))
    assert rig.sit(2).announced == 1  # the head of the store tells of the other
    rig.append(1, interface=1)
    rig.descriptor.rotate()
    assert rig.sit(3).announced == 2
    assert assigned(first) == [(2, ["second"], 1)]
    rig.append(1, interface=1)
    rig.descriptor.announce(block_of("third"))  # this one waits
    assert rig.sit(4).announced == 2


def test_a_reader_that_joins_while_both_buffers_are_with_others_counts_what_is_in_them(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.sit(1)
    rig.fill()
    rig.append()
    rig.descriptor.rotate()
    rig.append(1, bytes(CAPACITY - 100))
    assert rig.descriptor.slots()["assigned"] == (True, True)
    rig.descriptor.announce(block_of("late"))
    assert rig.sit(2).announced == 1


def test_nobody_joins_where_the_prologue_has_no_room(make_rig: MakeRig) -> None:
    rig = make_rig(growth_bytes=0)
    reader = rig.plain_reader()
    while not rig.descriptor.prologue_full:
        rig.descriptor.announce(block_of("x" * 200))
        rig.append(1, interface=rig.descriptor.announced - 1)
        rig.descriptor.rotate()
        assert sum(len(head) for _, head, _ in assigned(reader)) == 1
    with pytest.raises(SegmentError, match="its prologue has no room for all: connect without joining"):
        rig.sit(2)


@pytest.mark.parametrize("block", [b"", bytes(12), block_of("x")[:-4], block_of("x") + bytes(4), block_of("x" * 5000)])
def test_what_is_no_interface_description_is_refused(make_rig: MakeRig, block: bytes) -> None:
    rig = make_rig()
    with pytest.raises(ValueRefused, match="Interface Description Block of"):
        rig.descriptor.announce(block)
    assert rig.descriptor.interfaces_to_come() == 1


# ---- a filter for each link type -----------------------------------------------------------------------------------


def test_each_interface_s_packets_meet_its_own_program(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    long, short = compile_filter("greater 100", ETHERNET), compile_filter("less 100", ETHERNET)
    rig.descriptor.set_filter([long, short, b""])
    for interface in range(4):
        for size in (60, 200):
            rig.append(1, bytes(size), interface=interface)
    rig.descriptor.rotate()
    packets = [(packet.interface, len(packet.data)) for packet in reader.drain()]
    assert packets == [(0, 200), (1, 60), (2, 60), (2, 200)]  # the fourth interface, nobody has announced
    assert rig.descriptor.ledger()["filtered"] == 4


def test_an_interface_that_appears_brings_a_program_of_its_own(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.descriptor.set_filter(compile_filter("greater 100", ETHERNET))
    rig.descriptor.announce(block_of("same"), compile_filter("greater 100", ETHERNET))
    rig.descriptor.announce(block_of("other", RAW_IP), compile_filter("less 100", RAW_IP))
    rig.descriptor.announce(block_of("refused", 147), REFUSE_ALL)
    for interface in range(4):
        for size in (60, 200):
            rig.append(1, bytes(size), interface=interface)
    rig.descriptor.rotate()
    packets = split(reader.take_now().blocks)[1]
    assert [(packet.interface, len(packet.data)) for packet in packets] == [(0, 200), (1, 200), (2, 60)]


def test_a_guard_is_of_each_interface_too_and_the_filter_does_not_undo_it(make_rig: MakeRig) -> None:
    rig = make_rig(guard=[b"", REFUSE_ALL])
    reader = rig.plain_reader()
    rig.descriptor.set_filter(b"")
    rig.append(1, interface=0)
    rig.append(1, interface=1)
    rig.append(1, interface=2)
    rig.descriptor.rotate()
    assert [packet.interface for packet in reader.drain()] == [0]
    assert rig.descriptor.ledger()["received"] == 1


def test_a_program_that_is_not_valid_leaves_the_old_ones(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.descriptor.set_filter([REFUSE_ALL])
    for wrong in (b"rubbish!", [b"", b"rubbish!"]):
        with pytest.raises(FilterError):
            rig.descriptor.set_filter(wrong)
    rig.append()
    assert rig.descriptor.ledger()["filtered"] == 1


# ---- what a reader makes of it -------------------------------------------------------------------------------------


class Noting(SegmentReader):
    """A reader that notes what it is told of."""

    def _interfaces_appeared(self, head: bytes, appeared: list[Interface]) -> None:
        self.told = [*getattr(self, "told", []), *(one.name for one in appeared)]
        assert head == b"".join(block_of(one.name, one.linktype) for one in appeared)


def noting(rig: Rig) -> Noting:
    reader: Noting = rig.reader(kind=Noting)
    return reader


def test_a_reader_hears_of_interfaces_before_it_gets_their_packets(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = noting(rig)
    rig.append(2)
    rig.descriptor.announce(block_of("late", RAW_IP))
    rig.append(1, interface=1)
    rig.descriptor.finish()
    first = reader.next_buffer(0)
    assert first is not None
    assert ([packet.interface for packet in first], first.interfaces, first.head_bytes) == ([0, 0], 1, 0)
    second = reader.next_buffer(0)
    assert second is not None
    assert ([packet.interface for packet in second], second.interfaces) == ([1], 2)
    assert (second.head_bytes, len(second.index()), second.totals()[0]) == (len(block_of("late")), 1, 1)
    assert reader.told == ["late"]


@pytest.mark.parametrize("count", [3, 1000, 2**32 - 1])
def test_a_header_that_counts_more_interfaces_than_the_head_announces_is_found(make_rig: MakeRig, count: int) -> None:
    rig = make_rig()
    reader = noting(rig)
    rig.descriptor.announce(block_of("late"))
    rig.append(1, interface=1)
    rig.descriptor.rotate()
    rig.poke(0, 16, struct.pack("<I", count))
    with pytest.raises(CorruptBuffer, match="interfaces"):
        reader.next_buffer(0)


def test_rubbish_at_the_head_is_found(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = noting(rig)
    rig.descriptor.announce(block_of("late"))
    rig.append(1, interface=1)
    rig.descriptor.rotate()
    rig.poke(0, 128 + 4, struct.pack("<I", 20))
    with pytest.raises(CorruptBuffer):
        reader.next_buffer(0)
