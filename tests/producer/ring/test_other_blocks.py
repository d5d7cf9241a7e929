"""Blocks that are no packets, and packets with options: from a source through the ring to a reader, as they are."""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from support.cython import build_module
from support.project import TESTS
from support.rig import CAPACITY, ETHERNET, PAGE, Rig, adds_up

from zbuf.consumer.reading.copies import PacketCopy
from zbuf.producer.filters import REFUSE_ALL
from zbuf.producer.ring.pump import Pump
from zbuf.shared.memory.pcapng import Interface

NAMES, SECRETS = 4, 10
FLAGS = 0x01000002
MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def native_sources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Cython sources, compiled against the product's contract."""
    return build_module(TESTS / "support" / "native" / "native_sources.pyx", tmp_path_factory.mktemp("native"))


@pytest.fixture
def make_rig() -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rigs.append(Rig(**options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


def block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + total + body + total


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def comment(text: str) -> bytes:
    return option(1, text.encode())


Packet = tuple[bytes, bytes, int, int]


def packet(data: bytes = bytes(60), options: bytes = b"", interface: int = 0, direction: int = 0) -> Packet:
    return data, options, interface, direction


def pumped(native_sources: Any, rig: Rig, steps: Sequence[Packet | bytes], *, lossless: bool = False) -> Pump:
    pump = Pump(lossless=lossless)
    pump.attach(rig.descriptor)
    assert pump.run(native_sources.ScriptedSource([Interface("lab0", ETHERNET)], steps))
    return pump


def copies(reader: Any) -> list[PacketCopy]:
    return [found.copy() for found in reader]


# ---- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 3, 4, 61, 1500])
def test_options_of_a_packet_arrive_as_they_were(make_rig: MakeRig, native_sources: Any, size: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    options = comment("first") + option(3, b"hash" * 2) + comment("last")
    pumped(native_sources, rig, [packet(bytes(range(size % 251)) * 6, options)])
    rig.descriptor.finish()
    (found,) = copies(reader)
    assert found.comments == ["first", "last"]
    assert found.options == options + bytes(4)  # opt_endofopt
    assert found.flags == 0


def test_all_bits_of_the_flags_arrive_and_the_direction_is_told_once(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    pumped(native_sources, rig, [packet(options=option(2, struct.pack("<I", FLAGS)), direction=2)])
    rig.descriptor.finish()
    (found,) = copies(reader)
    assert (found.flags, found.direction, found.options) == (
        FLAGS,
        "out",
        option(2, struct.pack("<I", FLAGS)) + bytes(4),
    )


def test_a_direction_alone_is_among_the_flags(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    pumped(native_sources, rig, [packet(direction=1), packet()])
    rig.descriptor.finish()
    assert [(found.flags, found.comments) for found in copies(reader)] == [(1, []), (0, [])]


def test_a_descriptor_of_one_direction_goes_by_the_packet_s_whatever_its_options_say(
    make_rig: MakeRig, native_sources: Any
) -> None:
    rig = make_rig(direction="out")
    reader = rig.reader()
    options = option(2, struct.pack("<I", FLAGS))
    pumped(native_sources, rig, [packet(options=options, direction=2), packet(options=options, direction=1)])
    rig.descriptor.finish()
    assert [found.direction for found in reader] == ["out"]


def test_options_stay_where_the_data_is_cut_to_the_snaplen(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig(snaplen=10)
    reader = rig.reader()
    pumped(native_sources, rig, [packet(bytes(range(200)), comment("cut"))])
    rig.descriptor.finish()
    (found,) = copies(reader)
    assert (bytes(found), found.wirelen, found.comments) == (bytes(range(10)), 200, ["cut"])


def test_data_is_cut_before_options_are_where_both_do_not_fit_a_buffer(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    text = "x" * (CAPACITY // 2 - 8)
    pumped(
        native_sources, rig, [packet(bytes(PAGE), comment(text)), packet(bytes(100), comment("x" * (CAPACITY // 2)))]
    )
    rig.descriptor.finish()
    first, second = copies(reader)
    assert (first.comments, first.wirelen) == ([text], PAGE)
    assert 0 < first.caplen < PAGE // 2
    assert (second.comments, second.caplen) == ([], 100)  # more than half of a buffer: the packet is worth more
    assert rig.descriptor.ledger()["truncated"] == 1


def test_a_loss_is_told_beside_the_options(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    full = [packet(bytes(CAPACITY - 32))] * 3
    pumped(native_sources, rig, full)
    assert [len(buffer) for buffer in (reader.next_buffer(0), reader.next_buffer(0)) if buffer is not None] == [1, 1]
    assert reader.next_buffer(0) is None  # which gives the last one back
    pumped(native_sources, rig, [packet(options=comment("after"))])
    rig.descriptor.finish()
    (found,) = copies(reader)
    assert (found.dropped, found.comments) == (1, ["after"])


# ---- blocks ---------------------------------------------------------------------------------------------------------


def test_blocks_pass_through_between_the_packets_and_readers_pass_over_them(
    make_rig: MakeRig, native_sources: Any
) -> None:
    rig = make_rig()
    reader = rig.reader()
    names, secrets = block(NAMES, b"names..."), block(SECRETS, bytes(40))
    pump = pumped(native_sources, rig, [names, packet(b"one."), secrets, names, packet(b"two."), secrets])
    assert pump.offered == 2
    rig.descriptor.finish()
    buffer = reader.next_buffer(0)
    assert [bytes(found) for found in buffer] == [b"one.", b"two."]
    assert (len(buffer), buffer.totals(), list(buffer.index()["caplen"])) == (2, (2, 8, 8), [4, 4])
    blocks = bytes(buffer.data)
    assert blocks.startswith(names)
    assert blocks.endswith(secrets)
    assert blocks.count(names) == 2
    ledger = rig.descriptor.ledger()
    assert (ledger["received"], ledger["received_bytes"]) == (2, 8)
    assert adds_up(ledger)


def test_a_buffer_of_nothing_but_other_blocks_has_no_packets(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    pumped(native_sources, rig, [block(NAMES, bytes(8))])
    rig.descriptor.rotate()
    pumped(native_sources, rig, [packet(b"one.")])
    rig.descriptor.finish()
    assert [bytes(found) for found in reader] == [b"one."]
    assert (reader.finished, reader.sequence) == (True, 2)


def test_a_block_that_no_buffer_can_hold_is_left_out_and_counted(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    reader = rig.reader()
    fitting = block(SECRETS, bytes(CAPACITY - 12))
    pumped(native_sources, rig, [block(SECRETS, bytes(CAPACITY - 8)), fitting, packet()])
    rig.descriptor.finish()
    assert rig.descriptor.blocks_left_out == 1
    assert bytes(reader.next_buffer(0).data) == fitting
    assert len(list(reader)) == 1


def test_a_block_waits_for_room_where_nothing_may_be_lost_and_is_left_out_otherwise(
    make_rig: MakeRig, native_sources: Any
) -> None:
    rig = make_rig()
    rig.plain_reader()
    half = block(SECRETS, bytes(CAPACITY - 12))
    pumped(native_sources, rig, [half, half, half, half])
    assert rig.descriptor.blocks_left_out == 2
    lossless = make_rig()
    pumped(native_sources, lossless, [half] * 20, lossless=True)  # without a reader, there always is room
    assert lossless.descriptor.blocks_left_out == 0


def test_those_who_may_not_see_all_packets_get_no_other_blocks(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig(guard=[b"", REFUSE_ALL])
    reader = rig.reader()
    pumped(native_sources, rig, [block(SECRETS, bytes(8)), packet()])
    rig.descriptor.finish()
    buffer = reader.next_buffer(0)
    assert len(buffer.data) == 32 + 60


def test_the_pump_comes_back_where_an_interface_appears_and_goes_on_after_it(
    make_rig: MakeRig, native_sources: Any
) -> None:
    rig = make_rig()
    pump = Pump()
    pump.attach(rig.descriptor)
    late = Interface("late", ETHERNET)
    source = native_sources.ScriptedSource([Interface("lab0", ETHERNET)], [packet(), late, packet(interface=1)])
    assert (pump.run(source), pump.interfaces_appeared, pump.offered) == (False, True, 1)
    assert source.interfaces[1:] == [late]
    assert (pump.run(source), pump.interfaces_appeared, pump.offered) == (True, False, 2)
