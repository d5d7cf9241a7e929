"""A descriptor's filter and direction say which packets it takes, and a flush begins anew."""

import struct

import pytest
from support.numbered_packets import MakeRig, keep, numbered, numbers
from support.rig import ETHERNET, PACKET, PER_BUFFER, adds_up, parse_blocks

from zbuf.producer.filters import compile_filter
from zbuf.shared.errors import FilterError

REFUSE_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0)  # "ret #0" of bpf(4)


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
