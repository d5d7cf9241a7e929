"""What was acknowledged can't be reached any more, and what a view still shows is not given back."""

import gc
import io
from collections.abc import Callable

import pytest
from support.reading import (
    MakeRig,
    array_of,
    one_buffer,
    one_packet,
    take,
    take_nothing,
    user_gens,
)
from support.rig import PER_BUFFER

from zbuf.consumer.reading.buffer import Buffer, Packet
from zbuf.shared.errors import StaleBuffer

# ---- stale -----------------------------------------------------------------------------------------------------

PACKET_USES: dict[str, Callable[[Packet], object]] = {
    "time_ns": lambda packet: packet.time_ns,
    "caplen": lambda packet: packet.caplen,
    "wirelen": lambda packet: packet.wirelen,
    "interface": lambda packet: packet.interface,
    "dropped": lambda packet: packet.dropped,
    "direction": lambda packet: packet.direction,
    "data": lambda packet: packet.data,
    "copy": lambda packet: packet.copy(),
    "options": lambda packet: packet.options,
    "flags": lambda packet: packet.flags,
    "comments": lambda packet: packet.comments,
    "bytes": bytes,
    "len": len,
    "bool": bool,
    "memoryview": memoryview,
    "bytearray": bytearray,
    "numpy": array_of,
    "write": lambda packet: io.BytesIO().write(packet),
    "a name made at run time": lambda packet: getattr(packet, "".join(["cap", "len"])),
}
BUFFER_USES: dict[str, Callable[[Buffer], object]] = {
    "data": lambda buffer: buffer.data,
    "iter": iter,
    "index": lambda buffer: buffer.index(),
    "totals": lambda buffer: buffer.totals(),
    "head_bytes": lambda buffer: buffer.head_bytes,
    "bytes": bytes,
    "memoryview": memoryview,
    "numpy": array_of,
}


@pytest.mark.parametrize("move_on", [False, True], ids=["acknowledged", "moved on"])
@pytest.mark.parametrize("use", PACKET_USES)
def test_a_stale_packet_refuses_every_use(make_rig: MakeRig, use: str, move_on: bool) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append()
    rig.descriptor.rotate()
    buffer = take(reader)
    packet = next(iter(buffer))
    PACKET_USES[use](packet)
    if move_on:
        reader.next_buffer(timeout=0)
    else:
        buffer.acknowledge()
    with pytest.raises(StaleBuffer, match="buffer 0 was acknowledged"):
        PACKET_USES[use](packet)


def test_the_uses_of_a_packet_and_a_buffer_are_all_tested() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Packet) <= set(PACKET_USES)
    assert public(Buffer) - set(BUFFER_USES) == {
        *("acknowledge", "acknowledged", "packets", "sequence", "dropped_before", "interfaces"),
    }


@pytest.mark.parametrize("use", BUFFER_USES)
def test_an_acknowledged_buffer_refuses_every_use_of_its_bytes(make_rig: MakeRig, use: str) -> None:
    buffer = one_buffer(make_rig(), b"abc")
    BUFFER_USES[use](buffer)
    buffer.acknowledge()
    with pytest.raises(StaleBuffer):
        BUFFER_USES[use](buffer)
    assert (buffer.packets, buffer.sequence, len(buffer), buffer.acknowledged) == (1, 0, 1, True)


def test_a_walk_that_was_begun_stops_with_an_error_once_its_buffer_is_acknowledged(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(5)
    rig.descriptor.rotate()
    of_reader = iter(reader)
    next(of_reader)
    buffer = reader.next_buffer(timeout=0)
    assert buffer is None
    with pytest.raises(StaleBuffer):
        next(of_reader)
    rig.append(5)
    rig.descriptor.rotate()
    buffer = take(reader)
    of_buffer = iter(buffer)
    next(of_buffer)
    buffer.acknowledge()
    with pytest.raises(StaleBuffer):
        next(of_buffer)


# ---- acknowledging, and views ------------------------------------------------------------------------------------


def test_acknowledge_gives_the_buffer_back_at_once_and_doing_it_again_does_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"abc")
    assert user_gens(rig) == (0, 0)
    assert not buffer.acknowledged
    buffer.acknowledge()
    assert user_gens(rig) == (1, 0)
    buffer.acknowledge()
    assert user_gens(rig) == (1, 0)
    assert rig.descriptor.ledger()["delivered"] == 1


def test_acknowledging_twice_never_gives_back_a_later_filling(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    buffers = []
    for _ in range(3):
        rig.append()
        rig.assign()
        buffers.append(take(reader))
    buffers[0].acknowledge()
    assert user_gens(rig) == (1, 1)  # the third, which is A again, is not given back
    buffers[2].acknowledge()
    assert user_gens(rig) == (2, 1)


def test_moving_on_acknowledges(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(PER_BUFFER + 1)
    first = take(reader)
    assert take_nothing(reader)
    assert first.acknowledged
    assert user_gens(rig) == (1, 0)


VIEWS: dict[str, Callable[[Buffer], object]] = {
    "memoryview of the buffer": memoryview,
    "data of the buffer": lambda buffer: buffer.data,
    "array of the buffer": lambda buffer: array_of(buffer, "<u4"),
    "data of a packet": lambda buffer: next(iter(buffer)).data,
    "array of a packet": lambda buffer: array_of(next(iter(buffer))),
    "slice of an array": lambda buffer: array_of(buffer, "<u4")[2:5],
    "slice of a view": lambda buffer: buffer.data[8:12].cast("I"),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_buffer_with_a_living_view_can_not_be_acknowledged(make_rig: MakeRig, kind: str) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"abcde")
    view = VIEWS[kind](buffer)
    with pytest.raises(BufferError, match="buffer 0 can't be acknowledged: 1 views"):
        buffer.acknowledge()
    assert user_gens(rig) == (0, 0)
    assert bytes(next(iter(buffer))) == b"abcde"  # and it is as usable as before
    del view
    buffer.acknowledge()
    assert user_gens(rig) == (1, 0)


@pytest.mark.parametrize("kind", VIEWS)
def test_a_living_view_delays_the_acknowledgement_until_it_dies(make_rig: MakeRig, kind: str) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2)
    rig.descriptor.rotate()
    view = VIEWS[kind](take(reader))
    assert take_nothing(reader)
    rig.append(3 * PER_BUFFER)
    assert user_gens(rig) == (0, 0)
    assert reader.holds_views
    del view
    assert user_gens(rig) == (1, 0)
    assert not reader.holds_views


def test_the_last_of_several_views_gives_the_buffer_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(3)
    rig.descriptor.rotate()
    views = [packet.data for packet in take(reader)]
    assert take_nothing(reader)
    for view in views:
        assert user_gens(rig) == (0, 0)
        view.release()
    assert user_gens(rig) == (1, 0)


def test_a_view_outlives_everything_else_and_is_still_right(make_rig: MakeRig) -> None:
    rig = make_rig()
    view = one_packet(rig, b"still here").data
    gc.collect()
    rig.append(5 * PER_BUFFER, b"something else")
    rig.close()
    assert bytes(view) == b"still here"


def test_a_view_on_an_old_buffer_does_not_hold_up_the_other_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER)
    rig.descriptor.finish()
    first = take(reader).data
    second = take(reader)
    assert len(second) == PER_BUFFER
    second.acknowledge()
    assert user_gens(rig) == (0, 1)
    first.release()
    assert user_gens(rig) == (1, 1)
    assert rig.descriptor.ledger()["delivered"] == 2 * PER_BUFFER


def test_waiting_for_the_buffer_that_ones_own_views_hold_is_an_error_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER)
    rig.assign()
    view = take(reader).data
    second = take(reader)
    for _ in range(2):
        with pytest.raises(BufferError, match="1 of your own views"):
            reader.next_buffer()
    assert second.acknowledged
    view.release()
    rig.append()
    rig.descriptor.rotate()
    assert len(take(reader)) == 1


def test_a_view_that_dies_in_a_cycle_gives_its_buffer_back(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append()
    rig.descriptor.rotate()
    cycle: list[object] = [take(reader).data]
    cycle.append(cycle)
    assert take_nothing(reader)
    del cycle
    gc.collect()
    assert user_gens(rig) == (1, 0)


# ---- views that a loop's variable keeps -----------------------------------------------------------------------------


def test_the_next_buffer_comes_although_a_view_keeps_the_last_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    for number in range(6):  # as in a slow capture: each buffer has one packet when its read timeout is over
        rig.append(1, bytes([number]) * 9)
        assert rig.descriptor.rotate()
        data = next(iter(take(reader))).data
        assert bytes(data) == bytes([number]) * 9
        assert take_nothing(reader)
    assert rig.descriptor.ledger()["dropped"] == 0


@pytest.mark.parametrize("options", [{"immediate": True}, {"timeout_ms": 10}])
def test_the_read_timeout_and_immediate_mode_wait_for_no_view(make_rig: MakeRig, options: dict[str, int]) -> None:
    rig = make_rig(**options)
    reader = rig.reader()
    for number in range(4):
        rig.append(1, bytes([number]) * 9)
        for now_ns in (0, 20_000_000):
            rig.descriptor.tick(now_ns)
        data = next(iter(take(reader))).data
        assert bytes(data) == bytes([number]) * 9
        assert take_nothing(reader)


@pytest.mark.parametrize("packets", [3, PER_BUFFER // 2, PER_BUFFER - 1])
def test_a_store_is_hurried_later_the_fuller_it_is(make_rig: MakeRig, packets: int) -> None:
    rig = make_rig(timeout_ms=1)  # what comes while both buffers are held is lost: the faster, the more of it
    reader = rig.reader()
    rig.append()
    rig.descriptor.rotate()
    view = take(reader).data
    assert take_nothing(reader)
    rig.append(packets)
    for now_ms in (0, 1, packets * 1000 // PER_BUFFER - 10):
        rig.descriptor.tick(now_ms * 1_000_000)
        assert take_nothing(reader)
    rig.descriptor.tick((packets * 1000 // PER_BUFFER + 10) * 1_000_000)
    assert len(take(reader)) == packets
    del view


def test_a_buffer_that_is_still_read_is_not_hurried(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append()
    rig.descriptor.rotate()
    view = take(reader).data
    rig.append()
    assert not rig.descriptor.rotate()  # else what comes next would be lost, while it reads
    assert take_nothing(reader)
    assert rig.descriptor.rotate()
    del view


def test_a_buffer_is_not_hurried_while_another_reader_reads_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second = rig.reader(1), rig.reader(2)
    rig.append()
    rig.descriptor.rotate()
    views = [take(first).data, take(second).data]
    rig.append()
    assert take_nothing(first)
    assert not rig.descriptor.rotate()
    assert take_nothing(second)
    assert rig.descriptor.rotate()
    assert [len(take(first)), len(take(second))] == [1, 1]
    del views


def test_a_view_that_is_kept_for_good_is_an_error_that_names_the_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2)
    rig.descriptor.rotate()
    kept = [packet.data for packet in take(reader)]
    assert take_nothing(reader)
    rig.append(2)
    rig.descriptor.rotate()
    kept += [packet.data for packet in take(reader)]
    for _ in range(2):
        with pytest.raises(BufferError, match="2 of your own views still hold buffer 0, whose memory buffer 2 needs"):
            reader.next_buffer()
    kept.clear()
    assert take_nothing(reader)


def test_views_that_die_with_an_exception_leave_it_as_it_is(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER + 1)
    with pytest.raises(BufferError, match=f"{PER_BUFFER} of your own views still hold buffer 0"):
        [packet.data for packet in reader]  # the list dies while the exception unwinds the stack
    gc.collect()
    assert not reader.holds_views


def test_packets_that_are_kept_without_a_view_are_stale_and_hold_nothing_up(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER)
    rig.descriptor.finish()
    packets = list(reader)
    assert len(packets) == 2 * PER_BUFFER
    with pytest.raises(StaleBuffer, match="buffer 0 was acknowledged"):
        bytes(packets[0])
