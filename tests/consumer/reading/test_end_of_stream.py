"""The end of a stream: a producer that closed, and one that was killed."""

import struct
import subprocess
import sys
import textwrap
import threading

import pytest
from support.reading import LONG, MakeRig, collect_payloads, take, take_nothing
from support.rig import HEADER_BYTES, PACKET, PER_BUFFER, wait_until

from zbuf.shared.errors import CorruptBuffer, SegmentError


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
        rig.assign()
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
    rig.poke(0, HEADER_BYTES + 128, b"????")
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


# ---- an end that is told before it is waited for -------------------------------------------------------------------


def test_the_end_does_not_wait_for_views_of_the_last_buffers(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(PER_BUFFER + 3)
    rig.descriptor.finish()
    views = [take(reader).data, take(reader).data]
    assert reader.next_buffer() is None  # for as long as it takes: not at all
    assert reader.finished
    assert rig.descriptor.ledger()["delivered"] == 0
    for view in views:
        view.release()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER + 3


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_a_finish_ends_the_wait_that_goes_on(make_rig: MakeRig, spin_ns: int) -> None:
    rig = make_rig()
    reader = rig.reader(spin_ns=spin_ns)
    rig.append(3)
    rig.descriptor.rotate()
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.extend(len(buffer) for buffer in reader.buffers()))
    waiting.start()
    rig.append(2)
    rig.descriptor.finish()
    waiting.join(LONG)
    assert found == [3, 2]


def test_nothing_is_appended_and_nobody_joins_once_it_is_finished(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader()
    rig.append(3)
    rig.descriptor.finish()
    rig.append(3)
    rig.descriptor.finish()
    with pytest.raises(SegmentError, match="finished: it lets no more readers in"):
        rig.sit(2)
    assert [len(buffer) for buffer in reader.buffers()] == [3]
    assert rig.descriptor.ledger()["received"] == 3
