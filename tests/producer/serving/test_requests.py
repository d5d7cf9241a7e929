"""A reader asks its producer: to rotate, to filter, to flush, for statistics."""

from collections.abc import Callable

import pytest
from support.captures import received
from support.processes import Lab, Remote, number_of, take, take_all

from zbuf.consumer import connect, producers
from zbuf.shared.errors import Refused, ValueRefused


def test_rotate_says_whether_there_was_something(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader:
        assert reader.rotate() is False
        lab.append()
        assert reader.rotate() is True
        lab.append()
        assert reader.rotate() is False  # the first is not acknowledged: no buffer is free for what comes next
        assert take(reader, 1) == [0]
        assert reader.next_buffer(timeout=0) is None
        assert reader.rotate() is True
        assert take(reader, 1) == [1]


def test_set_filter_flushes_what_the_old_one_let_in(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader:
        lab.append(3)
        reader.set_filter("len > 100")
        assert reader.rotate() is False
        assert lab.descriptors()[0].received == 0
        lab.append()
        wanted = lab.append(size=200)
        assert [number_of(record.data) for record in received(reader)] == wanted
        found = lab.descriptors()[0]
        assert (found.received, found.filtered, found.settings.filter) == (2, 1, "len > 100")


def test_set_filter_without_flush_keeps_what_is_stored(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader:
        before = lab.append(3)
        reader.set_filter("len > 100", flush=False)
        lab.append()
        after = lab.append(size=200)
        assert [number_of(record.data) for record in received(reader)] == before + after
        assert lab.descriptors()[0].received == 5


def test_set_filter_to_nothing_lets_everything_in(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100") as reader:
        reader.set_filter("")
        numbers = lab.append(2)
        assert [number_of(record.data) for record in received(reader)] == numbers


def test_set_filter_that_does_not_compile_changes_nothing(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100", timeout_ms=0) as reader:
        kept = lab.append(size=200)
        with pytest.raises(Refused, match=r"filter 'foo bar': .*syntax error"):
            reader.set_filter("foo bar")
        lab.append()
        assert [number_of(record.data) for record in received(reader)] == kept
        assert lab.descriptors()[0].settings.filter == "len > 100"


@pytest.mark.parametrize("expression", ["x" * 9000, "tcp\0", "\udcff"])
def test_set_filter_refuses_what_is_no_filter_and_the_reader_goes_on(lab: Lab, expression: str) -> None:
    with connect(lab.name, immediate=True) as reader:
        with pytest.raises(ValueRefused, match="filter"):
            reader.set_filter(expression)
        sent = lab.append()
        assert take(reader, 1) == sent


def test_shared_descriptor_refuses_one_readers_wish_for_another_filter_or_flush(lab: Lab) -> None:
    with connect(lab.name, join="ids", timeout_ms=0) as reader:
        with connect(lab.name, join="ids"):
            numbers = lab.append(3)
            with pytest.raises(Refused, match="set filter: 2 readers share descriptor 'ids': use one of your own"):
                reader.set_filter("tcp")
            with pytest.raises(Refused, match="flush: 2 readers share descriptor 'ids'"):
                reader.flush()
        while len(lab.descriptors()[0].readers) > 1:
            pass
        assert [number_of(record.data) for record in received(reader)] == numbers
        reader.set_filter("tcp")  # alone, it may
        assert lab.descriptors()[0].settings.filter == "tcp"


def test_flush_discards_what_is_stored_and_begins_the_ledger_anew(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader:
        lab.append(3)
        reader.flush()
        assert reader.rotate() is False
        numbers = lab.append(2)
        assert [number_of(record.data) for record in received(reader)] == numbers
        found = lab.descriptors()[0]
        assert (found.received, found.accepted, found.dropped) == (2, 2, 0)


def test_flush_leaves_alone_what_is_assigned(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader:
        assigned = lab.append(3)
        reader.rotate()
        lab.append(2)
        reader.flush()
        assert [number_of(record.data) for record in received(reader)] == assigned
        found = lab.descriptors()[0]
        assert (found.received, found.accepted, found.delivered) == (3, 3, 3)


def test_stats_and_ledger_say_the_same_after_a_rotation(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0, filter="len < 100") as reader:
        lab.append(3)
        lab.append(2, size=200)
        reader.rotate()
        (found,) = reader.stats().descriptors
        ledger = reader.ledger()
        assert (ledger.received, ledger.filtered, ledger.accepted, ledger.buffered) == (5, 2, 3, 3)
        assert all(getattr(found, name) == getattr(ledger, name) for name in ledger.__struct_fields__)
        assert (found.readers[0].delivered, found.readers[0].holding) == (0, 1)
        take(reader, 3)
        reader.next_buffer(timeout=0)
        (found,) = reader.stats().descriptors
        assert (found.delivered, found.readers[0].delivered, found.readers[0].holding) == (3, 3, 0)
        assert reader.stats().pid == lab.process.pid


def test_ledger_is_exact_once_the_producer_closed(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3)
        lab.process.do("threading.Thread(target=producer.close).start()")
        assert take_all(reader) == [0, 1, 2]
        assert reader.ledger().received == 3


def test_producers_are_listed_by_name_and_dead_ones_are_not(lab: Lab, remote: Callable[[], Remote]) -> None:
    dead, second = remote(), remote()
    dead.do("producer = Producer(name)", name=f"{lab.name}.dead")
    second.do("producer = Producer(name)", name=f"{lab.name}.2")
    dead.kill()
    assert [(one.producer, one.pid) for one in producers()] == [
        (lab.name, lab.process.pid),
        (f"{lab.name}.2", second.pid),
    ]
    assert producers("/nonexistent/zbuf") == []
