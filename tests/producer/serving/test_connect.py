"""A client and its reader: what can be asked for, how waiting goes, how the stream ends, what closing leaves behind."""

import contextlib
import gc
import json
import os
import re
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.captures import Record, received
from support.fake_producer import FakeProducer
from support.processes import LIMIT_S, Lab, Remote, number_of, numbered, open_fds, take, take_all

from zbuf.consumer import INDEX_DTYPE, Reader, connect, producers
from zbuf.shared.errors import (
    ControlError,
    ProducerNotFound,
    Refused,
    SegmentError,
    StaleBuffer,
    ValueRefused,
    ZbufError,
)
from zbuf.shared.memory.pcapng import Interface

PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""
ETHERNET = 1

WAITS = pytest.mark.parametrize("wait", ["sleep", "spin"])


# ---- what is asked for ----------------------------------------------------------------------------------------------


def test_reader_tells_what_it_is_connected_to(lab: Lab) -> None:
    with connect(lab.name, snaplen=96) as reader:
        assert (reader.name, reader.snaplen, reader.linktype) == (lab.name, 96, ETHERNET)
        assert reader.interfaces == [Interface(lab.name, ETHERNET)]
        assert reader.prologue.startswith(b"\n\r\r\n")
        assert (reader.end_reason, reader.finished) == (None, False)
        assert [one.descriptor for one in lab.descriptors()] == [reader.descriptor]


def test_filter_lets_in_what_it_names(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100") as reader, connect(lab.name) as other:
        lab.append(3)
        wanted = lab.append(2, size=200)
        assert [number_of(record.data) for record in received(reader)] == wanted
        assert len(received(other)) == 5
        filtered = lab.descriptors()[0]
        assert (filtered.received, filtered.filtered, filtered.accepted) == (5, 3, 2)


def test_filter_can_be_of_several_lines(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100\n\tand len < 300\r\n") as reader:
        lab.append()
        wanted = lab.append(size=200)
        assert [number_of(record.data) for record in received(reader)] == wanted


def test_snaplen_cuts_and_keeps_the_length_on_the_wire(lab: Lab) -> None:
    with connect(lab.name, snaplen=20) as reader, connect(lab.name, snaplen=1) as shortest:
        lab.append(size=100)
        lab.append(size=20)
        assert [(len(one.data), one.wirelen) for one in received(reader)] == [(20, 100), (20, 20)]
        assert [(len(one.data), one.wirelen) for one in received(shortest)] == [(1, 100), (1, 20)]
        assert [one.truncated for one in lab.descriptors()] == [1, 2]


@pytest.mark.parametrize(("direction", "wanted"), [("in", [0, 2]), ("out", [1, 2]), ("inout", [0, 1, 2])])
def test_direction_lets_in_that_one_and_what_has_none(lab: Lab, direction: Any, wanted: list[int]) -> None:
    with connect(lab.name, direction=direction) as reader:
        lab.append(direction="in")
        lab.append(direction="out")
        lab.append()
        assert [number_of(record.data) for record in received(reader)] == wanted


def test_buffer_size_is_the_readers_choice(lab: Lab) -> None:
    with connect(lab.name, buffer_size=PAGE) as small, connect(lab.name) as usual:
        sizes = [one.settings.buffer_bytes for one in lab.descriptors()]
        assert sizes == [PAGE, 512 * PAGE]
        lab.append(2 * PER_PAGE + 10)
        assert take(small, 2 * PER_PAGE) == list(range(2 * PER_PAGE))
        assert len(received(usual)) == 2 * PER_PAGE + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait": "doze"}, "wait='doze': it must be 'sleep' or 'spin'"),
        ({"snaplen": 0}, "snaplen 0"),
        ({"snaplen": 262_145}, "snaplen 262145"),
        ({"buffer_size": 0}, "buffer size 0: it must be more than zero"),
        ({"buffer_size": 5000}, "buffer size 5000 is not a whole number of 4096-byte pages"),
        ({"buffer_size": (1 << 30) + PAGE}, "buffer size 1073745920 is more than the maximum"),
        ({"timeout_ms": -1}, "read timeout -1 ms"),
        ({"timeout_ms": 3_600_001}, "3600001"),
        ({"spin_us": -1}, "spin_us=-1: it must be from 0 to 1000000"),
        ({"spin_us": 1 << 64}, "spin_us=18446744073709551616"),
        ({"direction": "up"}, "direction 'up'"),
        ({"filter": "x" * 9000}, "filter of 9000 characters"),
        ({"filter": "foo bar"}, "filter 'foo bar': .*syntax error"),
        ({"filter": "\udcff"}, "filter"),
        ({"filter": "tcp\0"}, "filter 'tcp"),
        ({"join": "a/b"}, "group name 'a/b' can't be used"),
        ({"join": "x" * 49}, "group name 'x+' has 49 characters: use at most 48"),
        ({"join": ""}, "group name ''"),
    ],
)
def test_argument_that_can_not_be_is_refused_and_leaves_nothing_behind(
    lab: Lab, options: dict[str, Any], message: str
) -> None:
    gc.collect()
    ours, theirs = open_fds(), lab.process.fds
    with pytest.raises(ZbufError, match=message) as refused:
        connect(lab.name, **options)
    assert "\n" not in str(refused.value)
    assert open_fds() == ours
    lab.wait_fds(theirs)
    assert lab.descriptors() == []


def test_producer_that_is_not_there_is_named_with_those_that_are(lab: Lab, run_dir: Path) -> None:
    with pytest.raises(
        ProducerNotFound, match=re.escape(f"no producer 'none' runs in {run_dir} (there is: {lab.name})")
    ):
        connect("none")
    with pytest.raises(ProducerNotFound, match=r"no producer 'none' runs in .*/empty: start it with zbufd"):
        connect("none", run_dir=run_dir / "empty")
    with pytest.raises(ValueRefused, match="producer name 'a/b' can't be used"):
        connect("a/b")


def test_connecting_waits_while_the_producer_is_too_busy_to_let_anybody_in(lab: Lab, run_dir: Path) -> None:
    with contextlib.ExitStack() as cleaning:
        lab.process.signal(signal.SIGSTOP)
        cleaning.callback(lab.process.signal, signal.SIGCONT)
        fill_backlog(str(run_dir / f"{lab.name}.sock"), cleaning)
        outcome: list[Any] = []
        started = threading.Event()

        def connect_now() -> None:
            started.set()
            try:
                with connect(lab.name) as reader:
                    outcome.append(reader.name)
            except ZbufError as error:
                outcome.append(error)

        thread = threading.Thread(target=connect_now)
        thread.start()
        started.wait(LIMIT_S)
        thread.join(0.05)  # what gives up does so at once
        assert outcome == []
        lab.process.signal(signal.SIGCONT)
        thread.join(LIMIT_S)
        assert outcome == [lab.name]


def fill_backlog(path: str, cleaning: contextlib.ExitStack) -> None:
    """Connect until the kernel has no room for one more that was not let in."""
    for _ in range(10_000):
        connection = cleaning.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
        try:
            connection.connect(path)
        except BlockingIOError:
            return
    raise AssertionError("there is always room")


# ---- joining --------------------------------------------------------------------------------------------------------


def test_all_who_join_a_descriptor_get_each_packet_once(lab: Lab, remote: Callable[[], Remote]) -> None:
    process = remote()
    with connect(lab.name, join="ids") as reader:
        process.do("reader = connect(name, join='ids')", name=lab.name)
        assert process.ask("reader.descriptor") == reader.descriptor
        lab.append(100)
        reader.rotate()
        process.begin("take(reader, 100)")
        assert take(reader, 100) == process.result() == list(range(100))
        assert len(lab.descriptors()) == 1


def test_shared_buffer_is_free_once_every_reader_has_acknowledged_it(lab: Lab) -> None:
    with connect(lab.name, join="ids") as one, connect(lab.name, join="ids") as two:
        lab.append()
        one.rotate()
        for reader in (one, two):
            assert lab.descriptors()[0].buffered == 1
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            buffer.acknowledge()
        assert lab.descriptors()[0].delivered == 1


def test_reader_that_joins_late_gets_what_is_appended_from_then_on(lab: Lab) -> None:
    with connect(lab.name, join="ids") as early:
        lab.append(10)
        early.rotate()
        with connect(lab.name, join="ids") as late:
            lab.append(5)
            assert take(early, 10) == list(range(10))
            assert early.next_buffer(timeout=0) is None
            late.rotate()
            assert take(late, 5) == take(early, 5) == list(range(10, 15))


def test_joining_without_settings_takes_those_that_are_there(lab: Lab) -> None:
    with (
        connect(lab.name, join="ids", filter="len > 100", snaplen=50, buffer_size=PAGE) as first,
        connect(lab.name, join="ids") as second,
    ):
        assert second.descriptor == first.descriptor
        assert second.snaplen == 50


def test_joining_with_the_same_settings_is_joining(lab: Lab) -> None:
    options: Any = {"filter": "tcp", "snaplen": 50, "timeout_ms": 7, "direction": "in", "immediate": True}
    with connect(lab.name, join="ids", **options) as first, connect(lab.name, join="ids", **options) as second:
        assert second.descriptor == first.descriptor


@pytest.mark.parametrize(
    "options",
    [{"filter": "udp"}, {"snaplen": 51}, {"buffer_size": 2 * PAGE}, {"timeout_ms": 8}, {"immediate": True}],
)
def test_joining_with_other_settings_is_refused(lab: Lab, options: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"filter": "tcp", "snaplen": 50, "timeout_ms": 7, "buffer_size": PAGE}
    with connect(lab.name, join="ids", **settings) as reader:
        with pytest.raises(Refused, match="descriptor 'ids' is there with other settings"):
            connect(lab.name, join="ids", **settings | options)
        with pytest.raises(Refused, match="descriptor 'ids' is there with other settings"):
            connect(lab.name, join="ids", **options)
        assert len(lab.descriptors()[0].readers) == 1
        assert reader.rotate() is False


def test_descriptor_of_another_name_is_another(lab: Lab) -> None:
    with connect(lab.name, join="one") as one, connect(lab.name, join="two") as two, connect(lab.name) as private:
        assert len({one.descriptor, two.descriptor, private.descriptor}) == 3


def test_name_of_a_descriptor_is_free_once_the_last_reader_left(lab: Lab) -> None:
    with connect(lab.name, join="ids", filter="tcp") as reader:
        first = reader.descriptor
    lab.wait_descriptors(0)
    with connect(lab.name, join="ids", filter="udp") as reader:
        assert reader.descriptor != first


def test_joining_and_leaving_at_once_never_fails(lab: Lab, remote: Callable[[], Remote]) -> None:
    processes = [remote() for _ in range(3)]
    for process in processes:
        process.do(
            "def come_and_go():\n  for _ in range(60): connect(name, join='g', buffer_size=4096).close()", name=lab.name
        )
        process.begin("come_and_go()")
    for process in processes:
        process.result()
    lab.wait_descriptors(0)


# ---- waiting --------------------------------------------------------------------------------------------------------


@WAITS
def test_lone_packet_comes_by_the_read_timeout_without_anybody_doing_more(lab: Lab, wait: Any) -> None:
    with connect(lab.name, timeout_ms=10, wait=wait) as reader:
        numbers = lab.append()
        assert take(reader, 1) == numbers


def test_lone_packet_of_a_descriptor_without_timeout_stays_until_it_is_asked_for(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=0) as reader, connect(lab.name, timeout_ms=10) as other:
        numbers = lab.append()
        assert take(other, 1) == numbers  # the timeout of others was over by then
        assert reader.next_buffer(timeout=0) is None
        assert reader.rotate()
        assert take(reader, 1) == numbers


def test_tail_behind_a_full_buffer_comes_by_the_read_timeout(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=10, buffer_size=PAGE) as reader:
        numbers = lab.append(PER_PAGE + 1)
        assert take(reader, PER_PAGE + 1) == numbers


def test_immediate_mode_hands_over_each_packet(lab: Lab) -> None:
    with connect(lab.name, immediate=True, timeout_ms=0) as reader:
        for _ in range(5):
            numbers = lab.append()
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            assert [number_of(bytes(packet)) for packet in buffer] == numbers
            buffer.acknowledge()


def test_immediate_mode_hands_over_what_came_while_the_last_packet_was_held(lab: Lab) -> None:
    with connect(lab.name, immediate=True, timeout_ms=0) as reader:
        numbers = lab.append()
        buffer = reader.next_buffer(LIMIT_S)
        numbers += lab.append(3)
        assert buffer is not None
        assert [number_of(bytes(packet)) for packet in buffer] + take(reader, 3) == numbers


@WAITS
def test_wait_ends_with_its_time_where_nothing_comes(lab: Lab, wait: Any) -> None:
    with connect(lab.name, wait=wait) as reader:
        assert reader.next_buffer(timeout=0) is None
        started = time.monotonic()
        assert reader.next_buffer(timeout=0.02) is None
        assert time.monotonic() - started >= 0.02
        assert (reader.finished, reader.end_reason) == (False, None)


@WAITS
def test_reader_that_waits_is_woken(lab: Lab, wait: Any) -> None:
    with connect(lab.name, wait=wait, immediate=True) as reader:
        for _ in range(20):
            lab.process.begin("producer.append(numbered(1))")
            assert take(reader, 1) == [1]
            lab.process.result()
        assert wait == "sleep" or reader.sleeps == 0


@WAITS
def test_signal_ends_the_wait_with_what_its_handler_raises(lab: Lab, remote: Callable[[], Remote], wait: Any) -> None:
    process = remote()
    process.do("reader = connect(name, wait=wait)", name=lab.name, wait=wait)
    process.begin(
        """
        import sys
        sys.setswitchinterval(1000)  # so that the thread below runs once the wait lets go of the GIL, not before
        go = threading.Event()
        threading.Thread(target=lambda: go.wait() and os.kill(os.getpid(), signal.SIGINT)).start()
        go.set()
        reader.next_buffer()
        """
    )
    with pytest.raises(KeyboardInterrupt):
        process.result()
    numbers = lab.append()
    process.do("reader.rotate()")
    assert process.ask("take(reader, 1)") == numbers  # and the reader goes on


def test_reader_goes_on_after_a_signal_whose_handler_returns(lab: Lab, remote: Callable[[], Remote]) -> None:
    process = remote()
    process.do("signal.signal(signal.SIGUSR1, lambda *_: os.write(writing, b'!'))", writing=-1)
    process.do("reading, writing = os.pipe()")
    process.do("reader = connect(name)", name=lab.name)
    process.begin("take(reader, 1)")
    process.signal(signal.SIGUSR1)
    numbers = lab.append()
    assert process.result() == numbers
    assert process.ask("os.read(reading, 1)") == b"!"


def test_fileno_becomes_readable_when_a_buffer_comes(lab: Lab) -> None:
    with connect(lab.name, timeout_ms=10) as reader:
        for _ in range(3):
            assert reader.next_buffer(timeout=0) is None
            assert select.select([reader], [], [], 0)[0] == []
            numbers = lab.append()
            assert select.select([reader], [], [], LIMIT_S)[0] == [reader]
            assert take(reader, 1) == numbers


def test_fileno_becomes_readable_when_the_stream_ends(lab: Lab) -> None:
    with connect(lab.name) as reader, connect(lab.name, join="g") as other:
        assert reader.next_buffer(timeout=0) is None
        assert other.next_buffer(timeout=0) is None
        lab.close()
        assert select.select([reader, other], [], [], LIMIT_S)[0] == [reader, other]
        assert reader.next_buffer(timeout=0) is None
        assert reader.finished


def test_fileno_becomes_readable_when_the_producer_dies(lab: Lab) -> None:
    with connect(lab.name) as reader:
        assert reader.next_buffer(timeout=0) is None
        lab.kill()
        assert select.select([reader], [], [], LIMIT_S)[0] == [reader]
        assert reader.next_buffer(timeout=0) is None
        assert reader.end_reason == "producer died"


# ---- requests -------------------------------------------------------------------------------------------------------


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


# ---- the end --------------------------------------------------------------------------------------------------------


@WAITS
def test_end_is_closed_when_the_producer_closes(lab: Lab, wait: Any) -> None:
    with connect(lab.name, wait=wait) as reader:
        numbers = lab.append(10)
        lab.process.begin("producer.close()")
        assert take_all(reader) == numbers
        lab.process.result()
        assert (reader.end_reason, reader.finished) == ("closed", True)
        assert reader.next_buffer() is None
        assert list(reader) == []


@WAITS
def test_end_is_producer_died_when_it_is_killed_and_nothing_appended_is_missing(lab: Lab, wait: Any) -> None:
    with connect(lab.name, wait=wait, timeout_ms=0, buffer_size=PAGE) as reader:
        numbers = lab.append(PER_PAGE + 10)  # a full buffer, and a part of one
        lab.kill()
        assert take_all(reader) == numbers
        assert reader.end_reason == "producer died"
        assert reader.next_buffer() is None


@WAITS
def test_reader_that_waits_when_the_producer_is_killed_is_woken(
    lab: Lab, remote: Callable[[], Remote], wait: Any
) -> None:
    process = remote()
    process.do("reader = connect(name, wait=wait, timeout_ms=0)", name=lab.name, wait=wait)
    process.begin("take_all(reader)")
    numbers = lab.append(10)
    lab.kill()
    assert process.result() == numbers
    assert process.ask("reader.end_reason") == "producer died"


def test_all_readers_of_a_killed_producer_see_its_death_however_many(lab: Lab, remote: Callable[[], Remote]) -> None:
    # The kernel closes a dead process's files one by one: a doorbell may hang up long before the lock is gone.
    process = remote()
    process.do("readers = [connect(name, join='g', timeout_ms=0) for _ in range(60)]", name=lab.name)
    process.begin("threads = [threading.Thread(target=take_all, args=(one,)) for one in readers]")
    process.result()
    process.do(
        """
        found = {}
        def read(number):
            found[number] = (len(take_all(readers[number])), readers[number].end_reason)
        threads = [threading.Thread(target=read, args=(number,)) for number in range(60)]
        for thread in threads: thread.start()
        """
    )
    lab.append(7)
    lab.kill()
    process.do("for thread in threads: thread.join()")
    assert process.ask("set(found.values())") == {(7, "producer died")}


def test_end_is_left_after_close(lab: Lab) -> None:
    reader = connect(lab.name)
    lab.append()
    reader.close()
    assert (reader.end_reason, reader.finished) == ("left", True)
    assert reader.next_buffer() is None
    reader.close()
    lab.wait_descriptors(0)


def test_end_stays_what_it_was_after_close(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.close()
        assert reader.next_buffer(LIMIT_S) is None
    assert reader.end_reason == "closed"


def test_requests_after_the_end_are_control_errors(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.close()
        assert reader.next_buffer(LIMIT_S) is None
        for request in (reader.stats, reader.rotate, reader.flush, lambda: reader.set_filter("tcp")):
            with pytest.raises(ControlError, match="the producer closed the connection"):
                request()
    for request in (reader.stats, reader.rotate, reader.flush):
        with pytest.raises(ControlError):
            request()


def test_reader_that_is_forgotten_leaves(lab: Lab) -> None:
    gc.collect()
    ours = open_fds()
    for wait in ("sleep", "spin"):
        reader = connect(lab.name, wait=wait)
        forgotten = weakref.ref(reader)
        del reader
        gc.collect()
        assert forgotten() is None
    lab.wait_descriptors(0)
    assert open_fds() == ours


def test_forked_child_of_a_reader_does_not_keep_its_buffers(lab: Lab, remote: Callable[[], Remote]) -> None:
    process = remote()
    process.do("reader = connect(name, buffer_size=4096)", name=lab.name)
    lab.append(3 * PER_PAGE)
    process.do("reading, writing = os.pipe()")
    process.do("child = os.fork()\nif child == 0:\n  os.close(writing)\n  os.write(1, b'')\n  signal.pause()")
    child = os.pidfd_open(process.ask("child"))
    try:
        process.kill()
        lab.wait_descriptors(0)
        assert select.select([child], [], [], 0)[0] == []  # it lives
    finally:
        signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)


@pytest.mark.parametrize("before", ["reader.next_buffer()", "reader.close()"])
def test_forked_child_never_gives_back_what_its_parent_still_looks_at(
    lab: Lab, remote: Callable[[], Remote], before: str
) -> None:
    process = remote()
    process.do("reader = connect(name, buffer_size=4096, timeout_ms=0)", name=lab.name)
    lab.append(2 * PER_PAGE + 1)
    process.do("view = next(iter(reader.next_buffer())).data; " + before)
    process.do("child = os.fork()\nif child == 0:\n  view.release()\n  os._exit(0)\nos.waitpid(child, 0)")
    lab.append(3 * PER_PAGE)
    assert process.ask("number_of(view)") == 0
    process.do("view.release()")


@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_forked_child_is_told_that_the_reader_is_its_parents(lab: Lab, remote: Callable[[], Remote], wait: str) -> None:
    process = remote()
    before = process.fds
    process.do("reader = connect(name, buffer_size=4096, wait=wait)", name=lab.name, wait=wait)
    lab.append(PER_PAGE)
    process.do(
        """
        import json
        packets = iter(reader)
        first = next(packets)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            said = []
            for use in (lambda: next(packets), lambda: first.data, reader.next_buffer, reader.stats):
                try:
                    use()
                except Exception as error:
                    said.append(type(error).__name__)
            os.write(writing, json.dumps((said, reader.end_reason, open_fds())).encode())
            os._exit(0)
        os.waitpid(child, 0)
        """
    )
    told = ["StaleBuffer", "StaleBuffer", "ValueRefused", "ControlError"]
    opened = before + 5  # a pipe, two mappings, and the look itself
    assert json.loads(process.ask("os.read(reading, 4096)")) == [told, "left", opened]
    assert process.ask("number_of(bytes(first))") == 0  # the parent goes on
    assert process.ask("number_of(bytes(next(packets)))") == 1


# ---- an end that the producer decides on, by a minimal producer of our own -----------------------------------------


@pytest.fixture
def fake(producer_name: str, run_dir: Path) -> Iterator[FakeProducer]:
    """A producer that does what a test wants."""
    with contextlib.closing(FakeProducer(producer_name, run_dir)) as producer:
        yield producer


def connect_to(fake: FakeProducer, raw: bytes | None = None) -> Reader:
    """connect(), while the fake serves."""
    thread = threading.Thread(target=fake.serve, args=(raw,))
    thread.start()
    try:
        return connect(str(fake.answer["producer"]), timeout_ms=0)
    finally:
        thread.join(LIMIT_S)


@pytest.mark.slow
def test_end_is_evicted_when_the_producer_hangs_up_and_lives(fake: FakeProducer) -> None:
    with connect_to(fake) as reader:  # it takes seconds to believe that this is no death
        os.close(fake.doorbell)
        fake.doorbell = -1
        assert reader.next_buffer(LIMIT_S) is None
        assert reader.end_reason == "evicted"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "closed the connection"),
        (b"{", "malformed answer"),
        (b"[]", "malformed answer"),
        (b'{"type":"connected"}', "malformed answer"),
        (b'{"type":"done"}', "answer to connect with 3 file descriptors: is this a zbuf producer"),
        (b'{"type":"refusal","reason":"not you"}', "not you"),
        (b"\xff\xfe", "malformed answer"),
        (b"[" * 60_000, "malformed answer"),
    ],
)
def test_answer_that_is_none_is_refused_and_its_descriptors_are_closed(
    fake: FakeProducer, raw: bytes, message: str
) -> None:
    gc.collect()
    before = open_fds()
    with pytest.raises(ControlError, match=message) as refused:
        connect_to(fake, raw)
    assert "\n" not in str(refused.value)
    assert open_fds() - before == 1  # the fake's own end of the connection


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_answer_with_too_few_descriptors_is_refused(fake: FakeProducer, keep: int) -> None:
    for fd in fake.fds[keep:]:
        if fd not in (fake.ack_fd, fake.bell):
            os.close(fd)
    fake.fds = fake.fds[:keep]
    gc.collect()
    before = open_fds()
    with pytest.raises(ControlError, match=f"answer to connect with {keep} file descriptors"):
        connect_to(fake)
    assert open_fds() - before == 1


def test_answer_with_too_many_descriptors_leaves_none_of_them_open(fake: FakeProducer) -> None:
    fake.fds += [os.dup(fake.ack_fd) for _ in range(5)]
    gc.collect()
    before = open_fds()
    with contextlib.suppress(ControlError):
        connect_to(fake).close()
    gc.collect()
    assert open_fds() - before == 1


def test_segment_of_another_abi_is_refused_with_both_numbers(fake: FakeProducer) -> None:
    fake.segment.map[8:12] = (99).to_bytes(4, "little")
    with pytest.raises(SegmentError, match="segment of ABI 99, this is ABI 1: use the same version"):
        connect_to(fake)


def test_segment_that_is_foreign_is_refused(fake: FakeProducer) -> None:
    fake.segment.map[0:8] = b"ELEPHANT"
    with pytest.raises(SegmentError, match="foreign segment: it begins with b'ELEPHANT'"):
        connect_to(fake)


def test_segment_of_another_producer_is_refused(fake: FakeProducer) -> None:
    fake.answer["linktype"] = 101
    with pytest.raises(SegmentError, match=r"foreign segment: .* announced link type 101"):
        connect_to(fake)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_descriptor_of_the_wrong_kind_is_refused_in_good_order(fake: FakeProducer, which: int, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    wrong = os.open(tmp_path / "short", os.O_RDONLY)
    kept, fake.fds[which] = fake.fds[which], wrong
    gc.collect()
    before = open_fds()
    if which == 2:  # a file is always readable: nothing is wrong with it until the end
        connect_to(fake).close()
    else:
        with pytest.raises(SegmentError):
            connect_to(fake)
    gc.collect()
    assert open_fds() - before == 1
    if kept not in (fake.ack_fd, fake.bell):
        os.close(kept)


# ---- views, and what is still held ----------------------------------------------------------------------------------


def test_closing_while_a_view_lives_hangs_up_when_it_dies(lab: Lab) -> None:
    reader = connect(lab.name)
    lab.append(3)
    reader.rotate()
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    view = np.frombuffer(buffer.data, np.uint8)
    reader.close()
    assert reader.end_reason == "left"
    found = lab.descriptors()[0]
    assert (found.readers[0].holding, found.buffered) == (1, 3)  # the memory is ours while the array lives
    copy = view.tobytes()
    assert numbered(2) in copy
    del view
    lab.wait_descriptors(0)
    closed = lab.process.ask("producer.stats().closed")
    assert (closed.delivered, closed.abandoned) == (3, 0)
    with pytest.raises(StaleBuffer):
        bytes(buffer.data)


def test_closing_while_several_views_live_waits_for_the_last(lab: Lab) -> None:
    reader = connect(lab.name)
    lab.append(3)
    reader.rotate()
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    views = [packet.data for packet in buffer]
    reader.close()
    for view in views:
        assert len(lab.descriptors()) == 1
        view.release()
    lab.wait_descriptors(0)


def test_waiting_for_a_buffer_that_ones_own_views_hold_raises_at_once(lab: Lab) -> None:
    with connect(lab.name, buffer_size=PAGE, timeout_ms=0) as reader:
        lab.append(2 * PER_PAGE + 1)  # the last one is dropped, and has the second buffer assigned
        views = []
        for _ in range(2):
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            views.append(np.frombuffer(buffer.data, np.uint8))
        with pytest.raises(BufferError, match="1 of your own views still hold the buffer that comes next"):
            reader.next_buffer()
        assert numbered(0) in views[0].tobytes()
        assert numbered(PER_PAGE) in views[1].tobytes()
        del views, buffer
        assert reader.next_buffer(timeout=0) is None
        numbers = lab.append()
        reader.rotate()
        assert take(reader, 1) == numbers


def test_acknowledging_while_a_view_lives_raises(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        data = buffer.data
        with pytest.raises(BufferError, match="1 views of it are alive"):
            buffer.acknowledge()
        assert not buffer.acknowledged
        data.release()
        buffer.acknowledge()
        assert buffer.acknowledged


def test_packets_are_stale_after_their_buffer_was_acknowledged(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        packet = next(iter(buffer))
        buffer.acknowledge()
        for use in (bytes, memoryview, len, lambda one: one.caplen, lambda one: one.time_ns, lambda one: one.data):
            with pytest.raises(StaleBuffer, match="was acknowledged"):
                use(packet)
        with pytest.raises(StaleBuffer):
            buffer.index()


def test_index_outlives_its_buffer_and_the_reader(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3, time_ns=17)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        index = buffer.index()
    assert index.dtype == INDEX_DTYPE
    assert (index["caplen"].tolist(), index["time_ns"].tolist()) == ([60] * 3, [17] * 3)
    lab.wait_descriptors(0)


def test_two_hundred_readers_one_after_the_other_leave_no_descriptor_open_on_either_side(lab: Lab) -> None:
    gc.collect()
    ours, theirs, threads = open_fds(), lab.process.fds, threading.active_count()
    for number in range(200):
        wait: Any = "spin" if number % 10 == 0 else "sleep"
        with connect(lab.name, buffer_size=PAGE, wait=wait, join="g" if number % 3 == 0 else None) as reader:
            reader.next_buffer(timeout=0)
        del reader  # its mappings, each with a file descriptor, live as long as it does
    lab.wait_fds(theirs)
    assert (open_fds(), threading.active_count()) == (ours, threads)
    assert lab.descriptors() == []
    assert list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*")) == []


def test_two_hundred_refused_readers_leave_no_descriptor_open_on_either_side(lab: Lab) -> None:
    gc.collect()
    with connect(lab.name, join="g", buffer_size=PAGE) as reader:
        reader.stats()  # what the producer had open to answer the connect is closed when it answers this
        ours, theirs = open_fds(), lab.process.fds
        for number in range(200):
            options: Any = {"filter": "foo bar"} if number % 2 else {"join": "g", "filter": "tcp"}
            with pytest.raises(Refused):
                connect(lab.name, **options)
        lab.wait_fds(theirs)
        assert open_fds() == ours
        assert len(list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*"))) == 1
        numbers = lab.append()
        assert take(reader, 1) == numbers


def test_packets_of_every_size_come_through_with_their_metadata(lab: Lab) -> None:
    sizes = [*range(70), 1514, 9000, 65535]
    with connect(lab.name) as reader:
        lab.process.do(
            "for size in sizes: producer.append(bytes([size & 255]) * size, time_ns=size, wirelen=size + 1)",
            sizes=sizes,
        )
        assert received(reader) == [Record(bytes([size & 255]) * size, size, size + 1) for size in sizes]
