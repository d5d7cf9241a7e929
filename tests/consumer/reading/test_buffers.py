"""What a packet and a buffer tell, where their bytes lie, and how both are walked."""

import gc
import io
import itertools
import random
from typing import Any

import numpy as np
import pytest
from scapy.utils import RawPcapNgReader
from support.reading import MakeRig, address, one_buffer, one_packet, take, take_nothing, user_gens
from support.rig import ETHERNET, HEADER_BYTES, PER_BUFFER

from zbuf.consumer.reading.buffer import INDEX_DTYPE
from zbuf.shared.memory.pcapng import Interface

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
        reader.sequence = 1


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
        rig.assign()
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
