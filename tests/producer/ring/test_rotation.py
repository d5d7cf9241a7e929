"""A store that is not full is assigned: in immediate mode, by the read timeout, on request, at the end."""

from support.numbered_packets import MS, MakeRig, numbered, numbers
from support.rig import PER_BUFFER, adds_up, read_ledger


def test_immediate_mode_assigns_each_packet_at_once_while_a_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    for at in range(5):
        rig.descriptor.append_bytes(numbered(at))
        taken = reader.take_now()
        assert numbers(taken.packets) == [at]
        reader.acknowledge()


def test_immediate_mode_gathers_packets_while_no_buffer_is_free_and_assigns_them_with_the_next(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    for at in range(4):
        rig.descriptor.append_bytes(numbered(at))
    assert numbers(reader.drain()) == [0]
    rig.descriptor.append_bytes(numbered(4))
    assert numbers(reader.drain()) == [1, 2, 3, 4]


def test_immediate_mode_leaves_no_packet_behind_once_the_hold_comes_back(make_rig: MakeRig) -> None:
    rig = make_rig(immediate=True)
    reader = rig.plain_reader()
    rig.append(2)
    assert len(reader.drain()) == 1
    rig.descriptor.tick(1)
    assert len(reader.drain()) == 1


def test_the_read_timeout_assigns_a_waiting_store_at_the_first_tick_that_is_late_enough_and_at_none_before(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(3)
    for now_ns in (5, 6, 5 + 10 * MS - 1):
        rig.descriptor.tick(now_ns)
        assert reader.take() is None
    rig.descriptor.tick(5 + 10 * MS)
    assert len(reader.drain()) == 3


def test_the_read_timeout_counts_anew_for_each_filling(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append()
    rig.descriptor.tick(0)
    rig.descriptor.tick(9 * MS)
    rig.descriptor.rotate()
    rig.append()
    assert len(reader.drain()) == 1
    rig.descriptor.tick(10 * MS)  # the first that sees the second packet
    assert reader.take() is None
    rig.descriptor.tick(20 * MS - 1)
    assert reader.take() is None
    rig.descriptor.tick(20 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_counts_anew_after_a_flush(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append()
    rig.descriptor.tick(0)
    rig.descriptor.flush()
    rig.append()
    rig.descriptor.tick(15 * MS)
    assert reader.take() is None
    rig.descriptor.tick(25 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_never_assigns_an_empty_store(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    rig.plain_reader()
    for now_ns in range(0, 100 * MS, MS):
        rig.descriptor.tick(now_ns)
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_the_read_timeout_reclaims_an_acknowledged_hold_before_it_looks(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    rig.descriptor.tick(0)
    assert len(reader.drain()) == PER_BUFFER
    rig.descriptor.tick(10 * MS)
    assert len(reader.drain()) == 1


def test_the_read_timeout_waits_while_the_hold_is_owed_and_strikes_once_it_is_back(make_rig: MakeRig) -> None:
    rig = make_rig(timeout_ms=10)
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    for now_ns in range(0, 100 * MS, 10 * MS):
        rig.descriptor.tick(now_ns)
    assert rig.descriptor.slots()["next_sequence"] == 1
    assert len(reader.drain()) == PER_BUFFER
    rig.descriptor.tick(100 * MS)
    assert len(reader.drain()) == 1


def test_without_a_read_timeout_a_tick_assigns_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append()
    for now_ns in (0, 10**18, 2**64 - 1):
        rig.descriptor.tick(now_ns)
    assert reader.take() is None


def test_rotate_assigns_a_store_that_is_not_full(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2, time_ns=9)
    assert rig.descriptor.rotate() is True
    assert len(reader.drain()) == 2


def test_rotate_does_nothing_to_an_empty_store(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    assert rig.descriptor.rotate() is False
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_rotate_does_nothing_while_no_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    assert rig.descriptor.rotate() is False
    assert rig.descriptor.slots()["assigned"] == (True, False)


def test_rotate_reclaims_an_acknowledged_hold_first_and_so_strands_no_tail(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    assert len(reader.drain()) == PER_BUFFER
    assert rig.descriptor.slots()["hold"] == 0  # nobody has looked yet
    assert rig.descriptor.rotate() is True
    assert len(reader.drain()) == 5


def test_finish_assigns_the_tail_though_the_hold_is_still_owed(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    assert [taken.header.packets for taken in (reader.take_now(), reader.take_now())] == [PER_BUFFER, 5]


def test_finish_assigns_no_empty_buffer(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.descriptor.finish()
    assert rig.descriptor.slots()["next_sequence"] == 0


def test_abandon_accounts_for_everything_that_nobody_will_take(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(7)
    rig.descriptor.abandon()
    assert rig.descriptor.ledger()["abandoned"] == 7
    assert rig.descriptor.ledger()["buffered"] == 0
    rig.descriptor.close()
    assert adds_up(read_ledger(rig.memory))
