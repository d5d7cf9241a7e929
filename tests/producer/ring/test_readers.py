"""A descriptor's readers: they come, leave, sleep and lie, and harm nobody but themselves."""

import contextlib
import mmap
import os
import random
import struct

import pytest
from support.numbered_packets import MS, MakeRig, numbered, numbers
from support.rig import PAGE, PER_BUFFER, adds_up

from zbuf.shared.errors import SegmentError, ValueRefused

# ---- readers --------------------------------------------------------------------------------------------------------


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


# ---- doorbells ------------------------------------------------------------------------------------------------------


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


# ---- a hostile reader -----------------------------------------------------------------------------------------------


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
