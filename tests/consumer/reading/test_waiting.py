"""A reader's wait for a buffer: looking, sleeping, the doorbell, and signals."""

import os
import select
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
from support.reading import LONG, MakeRig, take
from support.rig import PER_BUFFER, wait_until


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
