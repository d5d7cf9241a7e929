"""A reader's buffers and packets: zero-copy while they last, never reachable after, and never a crash."""

import copy
import ctypes
import gc
import io
import itertools
import mmap
import os
import pickle
import random
import select
import signal
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Self, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader
from support.rig import CAPACITY, ETHERNET, HEADER_BYTES, PACKET, PAGE, PER_BUFFER, Rig, run_python, wait_until

from zbuf.consumer.reading.batches import Batch
from zbuf.consumer.reading.buffer import INDEX_DTYPE, Buffer, Packet
from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import CorruptBuffer, StaleBuffer
from zbuf.shared.memory.pcapng import Interface
from zbuf.shared.memory.reader_pages import make_ack_page, make_doorbell

MakeRig = Callable[..., Rig]
Start = Callable[..., subprocess.Popen[str]]
LONG = 20  # seconds; only broken code waits as long


def take(reader: SegmentReader) -> Buffer:
    """The next buffer, which must be there."""
    buffer = reader.next_buffer(timeout=0)
    assert buffer is not None
    return buffer


def one_buffer(rig: Rig, *payloads: bytes) -> Buffer:
    """A buffer with these packets, taken by a new reader."""
    reader = rig.reader()
    for at, payload in enumerate(payloads):
        rig.descriptor.append_bytes(payload, time_ns=1000 + at)
    rig.descriptor.rotate()
    return take(reader)


def one_packet(rig: Rig, payload: bytes = b"a packet") -> Packet:
    return next(iter(one_buffer(rig, payload)))


def collect_payloads(reader: Iterable[Packet]) -> list[bytes]:
    return [bytes(packet) for packet in reader]


def user_gens(rig: Rig, number: int = 1) -> tuple[int, int]:
    """What a reader has written into its ack page."""
    first, second = struct.unpack_from("<II", rig.seats[number].ack)
    return first, second


# ---- what a packet and a buffer say --------------------------------------------------------------------------


def test_a_packet_tells_all_that_was_appended_with_it(make_rig: MakeRig) -> None:
    rig = make_rig(interfaces=[Interface("lab0", ETHERNET), Interface("lab1", ETHERNET)])
    reader = rig.reader()
    rig.descriptor.append_bytes(b"abcde", time_ns=2**40 + 7, wirelen=99, interface=1, direction="out")
    rig.descriptor.append_bytes(b"", time_ns=2**64 - 1, direction="in")
    rig.descriptor.append_bytes(b"xyz")
    rig.descriptor.rotate()
    first, second, third = take(reader)
    assert (first.time_ns, first.caplen, first.wirelen, first.interface) == (2**40 + 7, 5, 99, 1)
    assert (first.dropped, first.direction) == (0, "out")
    assert (second.time_ns, second.caplen, second.wirelen, second.direction) == (2**64 - 1, 0, 0, "in")
    assert (third.time_ns, third.interface, third.direction) == (0, 0, "inout")


def test_a_packet_is_its_bytes(make_rig: MakeRig) -> None:
    packet = one_packet(make_rig(), b"abcde")
    assert bytes(packet) == b"abcde"
    assert len(packet) == 5
    assert bytes(packet.data) == bytes(memoryview(packet)) == b"abcde"
    assert bytearray(packet)[1:3] == b"bc"


def test_a_packet_of_no_bytes_is_one_too(make_rig: MakeRig) -> None:
    packet = one_packet(make_rig(), b"")
    assert (bytes(packet), len(packet), packet.data.nbytes) == (b"", 0, 0)


@pytest.mark.parametrize("name", ["caplen", "time_ns", "wirelen"])
def test_an_attribute_is_found_by_a_name_made_at_run_time_too(make_rig: MakeRig, name: str) -> None:
    packet = one_packet(make_rig(), b"abcde")
    assert getattr(packet, "".join(list(name))) == getattr(packet, name) == {"time_ns": 1000}.get(name, 5)


def test_a_packet_has_no_attributes_but_its_own_and_none_can_be_set(make_rig: MakeRig) -> None:
    packet = one_packet(make_rig())
    with pytest.raises(AttributeError, match="no_such"):
        getattr(packet, "".join(["no", "_such"]))
    for name in ("caplen", "data", "no_such"):
        with pytest.raises(AttributeError):
            setattr(packet, name, 1)


def test_what_a_buffer_and_a_reader_tell_can_not_be_set(make_rig: MakeRig) -> None:
    buffer, reader = one_buffer(make_rig(), b"abc"), make_rig().reader()
    with pytest.raises(AttributeError):
        buffer.packets = 1  # type: ignore[misc]
    with pytest.raises(AttributeError):
        reader.sequence = 1  # type: ignore[misc]


def test_a_packets_data_can_not_be_written(make_rig: MakeRig) -> None:
    packet = one_packet(make_rig())
    for view in (packet.data, memoryview(packet)):
        assert view.readonly
        with pytest.raises(TypeError):
            view[0] = 0
        view.release()
    with pytest.raises((BufferError, TypeError)):
        io.BytesIO(b"longer than the packet").readinto(packet)


def test_repr_says_what_a_packet_and_a_buffer_are_and_that_they_are_no_more(make_rig: MakeRig) -> None:
    buffer = one_buffer(make_rig(), b"abcde")
    packet = next(iter(buffer))
    assert repr(packet) == "<zbuf packet: 5 of 5 bytes at 1000 ns>"
    assert repr(buffer) == "<zbuf buffer 0: 1 packets, 40 bytes>"
    buffer.acknowledge()
    assert repr(packet) == "<zbuf packet: stale>"
    assert repr(buffer) == "<zbuf buffer 0: acknowledged>"


def test_a_buffer_tells_its_packets_its_number_and_what_was_lost_before_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER + 3)
    first, second = take(reader), take(reader)
    assert take_nothing(reader)
    rig.append(4)
    rig.descriptor.rotate()
    third = take(reader)
    assert [(one.sequence, one.packets, one.dropped_before) for one in (first, second, third)] == [
        (0, PER_BUFFER, 0),
        (1, PER_BUFFER, 0),
        (2, 4, 3),
    ]
    assert [packet.dropped for packet in third] == [3, 0, 0, 0]
    assert len(third) == 4
    assert reader.sequence == 3


def take_nothing(reader: SegmentReader) -> bool:
    return reader.next_buffer(timeout=0) is None


def test_a_buffer_can_be_walked_any_number_of_times_and_from_two_places_at_once(make_rig: MakeRig) -> None:
    payloads = [bytes([at]) * at for at in range(20)]
    buffer = one_buffer(make_rig(), *payloads)
    assert [bytes(packet) for packet in buffer] == payloads
    assert [(bytes(one), bytes(two)) for one, two in zip(buffer, buffer, strict=True)] == [
        (one, one) for one in payloads
    ]


def test_iterating_over_a_reader_gives_the_packets_of_all_buffers_and_acknowledges_each_on_moving_on(
    make_rig: MakeRig,
) -> None:
    rig = make_rig()
    reader = rig.reader()
    packets = iter(reader)
    for at in range(10):
        rig.descriptor.append_bytes(bytes([at]))
        rig.descriptor.append_bytes(bytes([at, at]))
        rig.descriptor.finish()
        assert [bytes(next(packets)), bytes(next(packets))] == [bytes([at]), bytes([at, at])]
    rig.descriptor.ledger()
    rig.descriptor.close()
    assert list(packets) == []
    assert list(packets) == []
    assert user_gens(rig) == (5, 5)


def test_iterating_over_a_reader_again_goes_on_where_it_was_left(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.descriptor.append_bytes(b"a")
    rig.descriptor.append_bytes(b"b")
    rig.descriptor.append_bytes(b"c")
    rig.descriptor.rotate()
    for packet in reader:
        assert bytes(packet) == b"a"
        break
    assert bytes(next(iter(reader))) == b"b"
    assert user_gens(rig) == (0, 0)
    rig.descriptor.append_bytes(b"d")
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [bytes(packet) for packet in itertools.islice(reader, 1)] == [b"c"]
    assert [bytes(packet) for packet in reader] == [b"d"]


def test_iterating_over_a_reader_again_does_not_go_back_into_a_buffer_that_was_moved_on_from(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(3)
    rig.descriptor.rotate()
    next(iter(reader))
    assert take_nothing(reader)
    rig.descriptor.append_bytes(b"the next")
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [bytes(packet) for packet in reader] == [b"the next"]


def test_iterating_over_buffers_ends_with_the_stream(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [len(buffer) for buffer in reader.buffers()] == [PER_BUFFER, 5]
    assert user_gens(rig) == (1, 1)


# ---- zero-copy -----------------------------------------------------------------------------------------------


def array_of(data: Any, kind: str = "u1") -> Any:
    """A NumPy array in the same memory; NumPy's own types know of no buffers but the standard library's."""
    return np.frombuffer(data, kind)


def address(data: object) -> int:
    return int(array_of(data).__array_interface__["data"][0])


def test_packets_lie_where_the_producer_wrote_them(make_rig: MakeRig) -> None:
    buffer = one_buffer(make_rig(), *[bytes(at) for at in range(1, 40)])
    begin, size = address(buffer.data), len(buffer.data)
    places = [address(packet.data) - begin for packet in buffer]
    assert places == sorted(places)
    assert all(0 <= place < size for place in places)
    assert places[0] == 28


def test_a_view_shows_the_producers_memory_itself(make_rig: MakeRig) -> None:
    rig = make_rig()
    packet = one_packet(rig, b"before")
    view = packet.data
    rig.poke(0, HEADER_BYTES + 28, b"AFTER!")
    assert bytes(view) == b"AFTER!"


def test_numpy_reads_a_buffer_in_place(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"abc", b"defgh")
    words = np.frombuffer(buffer.data, "<u4")
    assert words[0] == 6
    assert words.nbytes == len(buffer.data) == len(memoryview(buffer))
    assert not words.flags.writeable


def test_prologue_and_data_are_a_capture_file_that_others_read(make_rig: MakeRig) -> None:
    rig = make_rig(interfaces=[Interface("lab0", ETHERNET, "first"), Interface("lab1", ETHERNET)])
    reader = rig.reader()
    payloads = [random.Random(at).randbytes(at) for at in range(1, 60)]
    for at, payload in enumerate(payloads):
        rig.descriptor.append_bytes(
            payload, time_ns=1_700_000_000_123_456_789 + at, wirelen=at + 100, interface=at % 2, direction="in"
        )
    rig.descriptor.finish()
    layout = rig.segment.layout
    image = rig.memory[layout.prologue_offset : layout.prologue_offset + layout.prologue_bytes]
    for _ in range(2):
        image += bytes(take(reader).data)
    read: list[tuple[bytes, Any]] = list(RawPcapNgReader(io.BytesIO(image)))  # type: ignore[arg-type]
    assert [data for data, _ in read] == payloads
    assert [meta.wirelen for _, meta in read] == list(range(100, 159))
    nanoseconds = [(meta.tshigh << 32 | meta.tslow) for _, meta in read]
    assert nanoseconds == list(range(1_700_000_000_123_456_789, 1_700_000_000_123_456_789 + 59))
    assert {meta.tsresol for _, meta in read} == {10**9}
    assert {meta.ifname for _, meta in read} == {b"lab0", b"lab1"}


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
    assert public(Buffer) - set(BUFFER_USES) == {"acknowledge", "acknowledged", "packets", "sequence", "dropped_before"}


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
        rig.descriptor.finish()
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
    rig.descriptor.finish()
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


# ---- index and totals ----------------------------------------------------------------------------------------


def test_index_says_where_each_packet_is(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=50, interfaces=[Interface(f"lab{at}", ETHERNET) for at in range(3)])
    reader = rig.reader()
    while rig.descriptor.ledger()["dropped"] < 7:
        rig.append()
    take(reader)
    take(reader).acknowledge()
    payloads = [random.Random(at).randbytes(2 * at) for at in range(40)]
    for at, payload in enumerate(payloads):
        rig.descriptor.append_bytes(payload, time_ns=2**60 + at, interface=at % 3, direction=("in", "inout")[at % 2])
    rig.descriptor.rotate()
    buffer = take(reader)
    index, data = buffer.index(), buffer.data
    assert index.dtype == INDEX_DTYPE
    assert [bytes(data[row["offset"] : row["offset"] + row["caplen"]]) for row in index] == [
        payload[:50] for payload in payloads
    ]
    assert index["wirelen"].tolist() == [len(payload) for payload in payloads]
    assert index["interface"].tolist() == [at % 3 for at in range(40)]
    assert index["time_ns"].tolist() == [2**60 + at for at in range(40)]
    assert index["dropped"].tolist() == [packet.dropped for packet in buffer]
    assert index["dropped"][0] == 7
    assert not index["dropped"][1:].any()


def test_index_outlives_its_buffer_and_does_not_hold_it(make_rig: MakeRig) -> None:
    rig = make_rig()
    buffer = one_buffer(rig, b"abc", b"defgh")
    index = buffer.index()
    buffer.acknowledge()
    rig.append(5 * PER_BUFFER, b"something else")
    rig.close()
    del buffer, rig
    gc.collect()
    assert index["caplen"].tolist() == [3, 5]
    index["caplen"] += 1


def test_totals_counts_packets_captured_bytes_and_bytes_on_the_wire(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=10)
    assert one_buffer(rig, b"abc", bytes(10), bytes(500)).totals() == (3, 23, 513)


# ---- waiting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spin_ns", [-1, 0, 1000])
def test_a_look_at_an_empty_segment_returns_none_at_once(make_rig: MakeRig, spin_ns: int) -> None:
    reader = make_rig().reader(spin_ns=spin_ns)
    assert reader.next_buffer(timeout=0) is None
    assert reader.next_buffer(timeout=-5) is None
    assert not reader.finished


@pytest.mark.parametrize("spin_ns", [-1, 0, 1000, 10**12])
def test_a_wait_is_over_when_its_time_is(make_rig: MakeRig, spin_ns: int) -> None:
    reader = make_rig().reader(spin_ns=spin_ns)
    assert reader.next_buffer(timeout=0.002) is None
    assert not reader.finished


@pytest.mark.parametrize("timeout", [10**10, 10**30, 1e300, float("inf")])
def test_a_wait_may_be_longer_than_a_clock_has_room_for(make_rig: MakeRig, timeout: float) -> None:
    reader = make_rig().reader()
    reader.interrupt()
    assert reader.next_buffer(timeout=timeout) is None
    assert not reader.finished


def test_a_buffer_that_is_there_is_taken_without_a_wait(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER)
    rig.descriptor.finish()
    assert [len(buffer) for buffer in (take(reader), take(reader))] == [PER_BUFFER] * 2
    assert (reader.sleeps, rig.descriptor.bells, rig.seats[1].sleeping) == (0, 0, 0)


def readable(fd: int) -> bool:
    watch = select.poll()
    watch.register(fd, select.POLLIN)
    return bool(watch.poll(0))


def test_a_look_that_finds_nothing_leaves_the_reader_announced_so_that_its_doorbell_is_rung(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader, seat = rig.reader(), rig.seats[1]
    for _ in range(3):
        assert reader.next_buffer(timeout=0) is None
        assert seat.sleeping
        assert not readable(seat.doorbell)
        rig.append()
        assert not readable(seat.doorbell)
        rig.descriptor.rotate()
        assert readable(seat.doorbell)
        assert len(take(reader)) == 1


def test_a_look_that_finds_nothing_drains_the_doorbell(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader, seat = rig.reader(), rig.seats[1]
    os.write(seat.bell, b"!" * 1000)
    assert reader.next_buffer(timeout=0) is None
    assert not readable(seat.doorbell)


def test_a_doorbell_that_the_producer_made_a_blocking_one_holds_no_look_up(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader, seat = rig.reader(), rig.seats[1]
    os.set_blocking(seat.doorbell, True)
    for rings in (b"", b"!" * 64):
        os.write(seat.bell, rings)
        assert reader.next_buffer(timeout=0) is None


def test_a_reader_that_takes_a_buffer_is_no_longer_announced_and_nobody_rings(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader, seat = rig.reader(), rig.seats[1]
    assert reader.next_buffer(timeout=0) is None
    rig.append(PER_BUFFER + 1)
    assert len(take(reader)) == PER_BUFFER
    assert not seat.sleeping
    rig.append(1, bytes(3900))
    assert rig.descriptor.bells == 1


def test_no_buffer_is_missed_between_two_threads_that_sleep_all_the_time(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader(spin_ns=0)
    taken: list[int] = []

    def read() -> None:
        while (buffer := reader.next_buffer(timeout=LONG)) is not None:
            taken.append(buffer.sequence)
            buffer.acknowledge()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for count in range(300):
            if count % 3 == 0:
                wait_until(lambda: rig.seats[1].sleeping)
            rig.append()
            assert rig.descriptor.rotate()
            wait_until(lambda wanted=count + 1: rig.descriptor.ledger()["delivered"] == wanted)  # type: ignore[misc]
    finally:
        rig.descriptor.close()
        rig.seats[1].hang_up()
        thread.join(LONG)
    assert taken == list(range(300))
    assert reader.finished
    assert reader.sleeps >= 100
    assert rig.descriptor.bells >= 100


READER_PROGRAM = """
    import mmap, os, sys
    from zbuf.consumer.reading.segment_reader import SegmentReader
    from zbuf.shared.memory.reader_pages import map_ack_page
    from zbuf.shared.memory.segment import map_segment
    segment_fd, ack_fd, doorbell, spin_ns = map(int, sys.argv[1:])
    memory, layout = map_segment(segment_fd)
    reader = SegmentReader(memory, layout, map_ack_page(ack_fd), doorbell=doorbell, sequence=0, spin_ns=spin_ns)
    print("ready", flush=True)
    packets = buffers = 0
    for buffer in reader.buffers():
        buffers += 1
        for packet in buffer:
            assert bytes(packet) == packets.to_bytes(4, "little"), (bytes(packet), packets)
            packets += 1
    print(buffers, packets, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("spin_ns", [-1, 0, 20_000])
def test_a_reader_in_another_process_gets_everything_in_order_once(make_rig: MakeRig, spin_ns: int) -> None:
    rig = make_rig()
    seat = rig.sit()
    segment_fd = rig.segment.reader_fd()
    fds = (segment_fd, seat.ack_fd, seat.doorbell)
    command = [sys.executable, "-c", textwrap.dedent(READER_PROGRAM), *map(str, fds), str(spin_ns)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=fds) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for packet in range(20_000):
                if packet % 1000 == 0:
                    wait_until(lambda: rig.descriptor.ledger()["buffered"] == 0 or rig.descriptor.rotate())
                if rig.descriptor.slots()["hold"] is not None:
                    wait_until(lambda: rig.descriptor.ledger() and rig.descriptor.slots()["hold"] is None)
                rig.descriptor.append_bytes(packet.to_bytes(4, "little"))
            rig.descriptor.finish()
            wait_until(lambda: rig.descriptor.ledger()["buffered"] == 0)
            buffers = rig.descriptor.slots()["next_sequence"]
            rig.descriptor.close()
            seat.hang_up()
            assert process.stdout.readline() == f"{buffers} 20000\n"
        finally:
            process.kill()
            os.close(segment_fd)


class Stop(Exception):
    """What a signal handler raises to end a wait."""


def stop(*_: object) -> None:
    raise Stop


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_a_signal_handler_runs_while_a_reader_waits_and_can_end_the_wait(make_rig: MakeRig, spin_ns: int) -> None:
    rig = make_rig()
    reader, seat, main = rig.reader(spin_ns=spin_ns), rig.seats[1], threading.get_ident()

    def send() -> None:
        wait_until(lambda: seat.sleeping or spin_ns < 0)
        signal.pthread_kill(main, signal.SIGUSR1)

    def wait() -> None:
        sender.start()
        reader.next_buffer(timeout=LONG)

    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop):
            wait()
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


# ---- the end of the stream ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spin_ns", [-1, 0])
def test_a_closed_segment_ends_after_everything_that_was_assigned(make_rig: MakeRig, spin_ns: int) -> None:
    rig = make_rig()
    reader = rig.reader(spin_ns=spin_ns)
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [len(take(reader)), len(take(reader))] == [PER_BUFFER, 5]
    assert not reader.finished
    for _ in range(2):
        assert reader.next_buffer(timeout=LONG) is None
        assert reader.finished


def test_a_closed_segments_store_is_not_delivered(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(5)
    rig.descriptor.close()
    assert reader.next_buffer(timeout=LONG) is None
    assert reader.finished


def test_a_reader_that_sleeps_is_told_of_the_end_by_the_hang_up(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(reader.next_buffer(timeout=LONG)))
    thread.start()
    wait_until(lambda: rig.seats[1].sleeping)
    rig.descriptor.close()
    rig.seats[1].hang_up()
    thread.join(LONG)
    assert answers == [None]
    assert reader.finished


def test_a_dead_producers_reader_gets_the_assigned_buffers_then_the_store_then_the_end(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(PER_BUFFER)
    rig.append(7, b"stored")
    rig.seats[1].hang_up()
    first = reader.next_buffer(timeout=LONG)
    assert first is not None
    assert collect_payloads(first) == [PACKET] * PER_BUFFER
    rest = reader.next_buffer(timeout=LONG)
    assert rest is not None
    assert collect_payloads(rest) == [b"stored"] * 7
    assert (rest.sequence, rest.packets, len(rest.index()), rest.totals()) == (1, 7, 7, (7, 42, 42))
    assert reader.next_buffer(timeout=LONG) is None
    assert reader.finished


@pytest.mark.parametrize("rotations", range(5))
def test_a_dead_producers_store_is_found_in_whichever_buffer_it_was(make_rig: MakeRig, rotations: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    for _ in range(rotations):
        rig.append(3, b"assigned")
        rig.descriptor.finish()
        take(reader)
    rig.append(2, b"stored")
    rig.seats[1].hang_up()
    last = reader.next_buffer(timeout=LONG)
    assert last is not None
    assert [bytes(packet) for packet in last] == [b"stored"] * 2
    assert last.sequence == rotations
    assert reader.next_buffer(timeout=LONG) is None


def test_a_dead_producer_that_had_both_buffers_assigned_leaves_nothing_twice(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(2 * PER_BUFFER + 1)
    assert rig.descriptor.slots()["assigned"] == (True, True)
    rig.seats[1].hang_up()
    assert [len(buffer) for buffer in reader.buffers()] == [PER_BUFFER, PER_BUFFER]


@pytest.mark.parametrize("rotations", [1, 2, 3, 4])
def test_a_stale_length_of_an_earlier_filling_is_not_delivered_again(make_rig: MakeRig, rotations: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    for _ in range(rotations):
        rig.append(3)
        rig.descriptor.rotate()
        take(reader).acknowledge()
    assert rig.header(rotations % 2).stored_bytes == 0
    rig.seats[1].hang_up()
    assert reader.next_buffer(timeout=LONG) is None
    assert reader.finished


def test_a_dead_producers_damaged_store_is_an_error_and_then_the_end(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(3)
    rig.poke(0, HEADER_BYTES + 124, b"????")
    rig.seats[1].hang_up()
    with pytest.raises(CorruptBuffer, match="byte 124"):
        reader.next_buffer(timeout=LONG)
    assert reader.next_buffer(timeout=LONG) is None


@pytest.mark.parametrize("length", [2, 1 << 20, 2**32 - 4])
def test_a_dead_producers_store_of_an_impossible_length_is_left_alone(make_rig: MakeRig, length: int) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(3)
    rig.poke(0, 64, struct.pack("<I", length))
    rig.seats[1].hang_up()
    assert reader.next_buffer(timeout=LONG) is None
    assert reader.finished


PRODUCER_PROGRAM = """
    import sys, mmap, posix_ipc
    from zbuf.producer.ring.descriptor import Descriptor
    name, buffer_bytes, first, second, ack_fd, doorbell = sys.argv[1], *map(int, sys.argv[2:])
    shared = posix_ipc.SharedMemory(name)
    memory = mmap.mmap(shared.fd, shared.size)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, first, second, buffer_bytes)
    descriptor.add_reader(1, mmap.mmap(ack_fd, 4096), doorbell)
    for packet in range(50):
        descriptor.append_bytes(packet.to_bytes(92, "little"))
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_producer_killed_by_the_kernel_leaves_everything_it_appended(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    seat, layout = rig.seats[1], rig.segment.layout
    arguments = [rig.segment.name, layout.buffer_bytes, *layout.buffer_offsets, seat.ack_fd, seat.bell]
    command = [sys.executable, "-c", textwrap.dedent(PRODUCER_PROGRAM), *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=(seat.ack_fd, seat.bell)) as process:
        try:
            seat.hang_up()  # the producer has the only end of the doorbell now
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert len(take(reader)) == PER_BUFFER
            assert take_nothing(reader)
            assert not reader.finished
        finally:
            process.kill()
    rest = reader.next_buffer(timeout=LONG)
    assert rest is not None
    assert [int.from_bytes(bytes(packet), "little") for packet in rest] == list(range(PER_BUFFER, 50))
    assert reader.next_buffer(timeout=LONG) is None
    assert reader.finished


# ---- a broken or hostile producer ----------------------------------------------------------------------------------


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
    "type": (40, 5),
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
    rig.poke(0, HEADER_BYTES + 40, bytes(4))
    packets = iter(buffer)
    assert bytes(next(packets)) == b"12345678"
    with pytest.raises(CorruptBuffer, match="at byte 40"):
        next(packets)
    assert list(packets) == []


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


# ---- made by hand --------------------------------------------------------------------------------------------------

HAND_MADE = """
    import copy, gc, pickle
    from zbuf.consumer.reading.buffer import Buffer, Packet
    from zbuf.consumer.reading.segment_reader import SegmentReader
    from zbuf.consumer.reading.turn import Turn

    def attempt(use, thing):
        try:
            use(thing)
        except Exception:
            pass  # an exception is all right: a crash is not

    uses = [bytes, len, iter, list, repr, str, hash, bool, memoryview, bytearray, copy.copy, copy.deepcopy,
            pickle.dumps, dir, next, float, int, lambda one: one[0], lambda one: one == one, lambda one: one.__class__]
    buffer = Buffer()
    kinds = [Packet, Buffer, type(iter(buffer)), Turn, SegmentReader]
    for kind in kinds:
        for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind), lambda: kind(1, 2, 3)):
            try:
                thing = make()
            except Exception:
                continue
            for name in sorted(set(dir(kind)) | {"no_such"}):
                attempt(lambda one: getattr(one, name), thing)
                attempt(lambda one: setattr(one, name, None), thing)
                if name not in ("__class__", "__new__", "__init_subclass__", "__subclasshook__"):
                    attempt(lambda one: getattr(one, name)(), thing)
                    attempt(lambda one: getattr(kind, name)(one), thing)
                    attempt(lambda one: getattr(kind, name)(one, one), thing)
            for use in uses:
                attempt(use, thing)
            del thing
            gc.collect()
    print("survived")
"""


def test_objects_made_by_hand_never_crash_the_interpreter() -> None:
    assert run_python(HAND_MADE) == (0, "survived\n", "")


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_reader_a_buffer_and_a_packet_can_not_be_copied_or_pickled(
    make_rig: MakeRig, make_copy: Callable[[object], object]
) -> None:
    reader = make_rig().reader()
    with pytest.raises(TypeError, match=r"connect\(\) in each process"):
        make_copy(reader)
    buffer = one_buffer(make_rig(), b"abc")
    packet = next(iter(buffer))
    for thing in (buffer, packet, iter(buffer)):
        with pytest.raises(TypeError):
            make_copy(thing)
    assert bytes(packet) == b"abc"


WALKERS_BY_HAND = """
    from support.rig import Rig
    with Rig() as rig:
        reader = rig.reader()
        rig.append()
        rig.descriptor.rotate()
        for walker in (iter(reader), iter(reader.next_buffer(timeout=0))):
            try:
                next(type(walker)())
            except Exception as error:
                print(type(error).__name__)
"""


def test_iterators_made_by_hand_never_crash_the_interpreter() -> None:
    assert run_python(WALKERS_BY_HAND) == (0, "AttributeError\n" * 2, "")


# ---- what it is made of ---------------------------------------------------------------------------------------------


def test_a_reader_needs_an_ack_page_that_can_be_written(make_rig: MakeRig) -> None:
    rig = make_rig()
    with pytest.raises((BufferError, TypeError)):
        SegmentReader(rig.memory, rig.segment.layout, bytes(4096), doorbell=-1, sequence=0, spin_ns=0)
    with pytest.raises((BufferError, TypeError)):
        SegmentReader(cast(Any, 7), rig.segment.layout, bytearray(4096), doorbell=-1, sequence=0, spin_ns=0)


def test_a_reader_keeps_its_mappings_and_gives_them_up_with_itself(make_rig: MakeRig) -> None:
    rig = make_rig()
    ack_fd, ack = make_ack_page()
    os.close(ack_fd)
    reader: Any = SegmentReader(rig.memory, rig.segment.layout, ack, doorbell=-1, sequence=0, spin_ns=0)
    with pytest.raises(BufferError):
        ack.close()
    del reader
    gc.collect()
    ack.close()


def test_a_reader_that_is_collected_with_its_last_buffer_gives_its_mappings_up_too(make_rig: MakeRig) -> None:
    rig = make_rig()
    ack = mmap.mmap(-1, PAGE)
    rig.descriptor.add_reader(1, ack, -1)
    reader = SegmentReader(rig.memory, rig.segment.layout, ack, doorbell=-1, sequence=0, spin_ns=0)
    rig.append()
    rig.descriptor.rotate()
    take(reader)  # the reader and its buffer refer to each other from here on
    rig.descriptor.remove_reader(1)
    del reader
    gc.collect()
    ack.close()


def test_two_readers_each_get_everything_at_their_own_pace(make_rig: MakeRig) -> None:
    rig = make_rig()
    quick, slow = rig.reader(1), rig.reader(2)
    rig.append(PER_BUFFER, PACKET)
    rig.append(1, b"tail")
    rig.descriptor.finish()
    assert len(take(quick)) == PER_BUFFER
    assert [len(take(slow)), len(take(slow))] == [PER_BUFFER, 1]
    assert take_nothing(slow)
    assert rig.descriptor.ledger()["delivered"] == 0
    rig.descriptor.close()
    assert collect_payloads(quick) == [b"tail"]
    assert collect_payloads(slow) == []
