"""Readers that outlive their producer."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.processes import LIMIT_S, Lab, Remote, number_of, open_fds, take

from zbuf.consumer import Reader, ReconnectingReader, connect
from zbuf.consumer.reading.options import Options
from zbuf.consumer.reading.reader import open_reader
from zbuf.consumer.reading.reconnecting import pauses
from zbuf.shared.errors import ProducerNotFound, Refused, ValueRefused, ZbufError


@pytest.fixture
def restart(remote: Callable[[], Remote], producer_name: str) -> Callable[..., Lab]:
    """Start the producer anew, in another process."""
    return lambda **options: Lab(remote(), producer_name, **options)


@pytest.fixture
def reader(lab: Lab) -> Iterator[ReconnectingReader]:
    with connect(lab.name, reconnect=True, immediate=True) as reader:
        yield reader


def come_back(reader: ReconnectingReader) -> None:
    """Wait for it."""
    count = len(reader.returns)
    while len(reader.returns) == count:
        assert reader.next_buffer(timeout=0.2) is None


def test_everything_of_a_killed_producer_is_read_and_then_the_next_ones_packets(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab]
) -> None:
    lab.append(3)
    lab.kill()
    assert take(reader, 3) == [0, 1, 2]
    assert reader.next_buffer(timeout=0) is None
    assert (reader.is_away, reader.finished, reader.end_reason, reader.fileno()) == (True, False, None, -1)
    again = restart()
    come_back(reader)
    assert not reader.is_away
    again.append(2)
    assert take(reader, 2) == [0, 1]
    (back,) = reader.returns
    assert (back.ended_as, back.unaccounted) == ("producer died", 0)
    assert 0 < back.away_s < LIMIT_S


def test_it_tells_how_many_packets_it_came_too_late_for(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    lab.close()
    assert reader.next_buffer(timeout=0) is None
    again = restart()
    missed = again.append(5)
    come_back(reader)
    found = again.append(2)
    assert take(reader, 2) == found
    assert found[0] == len(missed)
    assert (reader.unaccounted, reader.returns[0].ended_as) == (5, "closed")
    assert "5 packets before this reader came are not accounted for" in caplog.text


def test_packets_of_all_runs_are_iterated_over_as_one(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab]
) -> None:
    found: list[int] = []
    arrived = threading.Condition()

    def iterate() -> None:
        for packet in reader:
            with arrived:
                found.append(number_of(bytes(packet)))
                arrived.notify()

    def wait_for(count: int) -> None:
        with arrived:
            assert arrived.wait_for(lambda: len(found) == count, LIMIT_S)

    thread = threading.Thread(target=iterate)
    thread.start()
    try:
        lab.append(2)
        wait_for(2)
        lab.kill()
        for run in range(1, 4):
            again = restart()
            assert again.process.ask("producer.wait_readers(1, timeout_s=20)")
            again.append(2)
            wait_for(2 + 2 * run)
            again.kill()
    finally:
        reader._closed = True
        reader.interrupt()
        thread.join()
    assert found == [0, 1] * 4
    assert len(reader.returns) == 3


def test_iterating_again_goes_on_where_it_was_left(lab: Lab) -> None:
    with connect(lab.name, reconnect=True, timeout_ms=0) as reader:
        lab.append(3)
        reader.rotate()
        for number in range(3):
            for packet in reader:
                assert number_of(bytes(packet)) == number
                break


def test_filter_and_the_other_options_are_those_of_before(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab]
) -> None:
    reader.set_filter("greater 100")
    lab.close()
    again = restart()
    come_back(reader)
    (descriptor,) = again.descriptors()
    assert (descriptor.settings.filter, descriptor.settings.immediate) == ("greater 100", True)


def test_time_to_wait_is_kept_while_there_is_no_producer(lab: Lab, reader: ReconnectingReader) -> None:
    lab.close()
    assert reader.next_buffer(timeout=0.12) is None
    assert reader.next_buffer(timeout=0) is None
    assert not reader.finished


def test_interrupt_ends_a_wait_for_a_packet_and_one_for_a_producer(lab: Lab, reader: ReconnectingReader) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: reader.interrupt())
    try:
        for _ in range(2):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert reader.next_buffer() is None
            assert not reader.finished
            lab.close()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_interrupt_while_it_connects_ends_the_wait_too(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(name: str, options: Options) -> Reader:
        reader.interrupt()
        return open_reader(name, options)

    lab.close()
    assert reader.next_buffer(timeout=0) is None
    restart()
    monkeypatch.setattr("zbuf.consumer.reading.reconnecting.open_reader", interrupted)
    started = time.monotonic()
    assert reader.next_buffer(timeout=LIMIT_S) is None
    assert time.monotonic() - started < LIMIT_S / 2
    assert len(reader.returns) == 1


def test_closing_ends_it(lab: Lab, reader: ReconnectingReader) -> None:
    lab.close()
    assert reader.next_buffer(timeout=0) is None
    reader.close()
    assert (reader.finished, reader.end_reason) == (True, "closed")
    with pytest.raises(ValueRefused, match="is closed"):
        list(reader)


def test_other_link_type_is_an_error(lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab]) -> None:
    lab.close()
    restart(linktype=101)
    with pytest.raises(ZbufError, match="link type 101, it had 1"):
        come_back(reader)
    assert reader.finished


def test_other_interfaces_are_those_of_the_packets_then(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab]
) -> None:
    lab.close()
    again = restart(interfaces=["a", "b"])
    come_back(reader)
    again.append(interface=1)
    buffer = reader.next_buffer(timeout=LIMIT_S)
    assert buffer is not None
    assert [reader.interfaces[packet.interface].name for packet in buffer] == ["b"]


def test_it_leaves_nothing_behind_however_often_it_comes_back(
    lab: Lab, reader: ReconnectingReader, remote: Callable[[], Remote]
) -> None:
    processes = [remote() for _ in range(5)]
    before = open_fds()
    last = lab
    for process in processes:
        last.close()
        last = Lab(process, lab.name)
        come_back(reader)
    assert open_fds() == before


def test_first_connection_fails_as_connect_does(lab: Lab) -> None:
    with pytest.raises(ProducerNotFound):
        connect(f"{lab.name}-not", reconnect=True)
    with pytest.raises(Refused):
        connect(lab.name, reconnect=True, filter="no such word")
    with pytest.raises(ValueRefused):
        connect(lab.name, reconnect=True, snaplen=-1)


def test_producer_that_refuses_is_told_once_and_tried_again(
    lab: Lab, reader: ReconnectingReader, restart: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    lab.close()
    again = restart()
    again.process.do("blocking = [connect(name) for _ in range(64)]")
    for _ in range(3):
        assert reader.next_buffer(timeout=0.1) is None
    assert caplog.text.count("refuses this reader") == 1
    again.process.do("blocking.pop().close()")
    come_back(reader)


def test_pauses_between_looks_grow_from_a_moment_to_seconds() -> None:
    for _ in range(20):
        found = list(itertools.islice(pauses(), 10))
        bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
        assert all(bound / 2 <= pause <= bound for pause, bound in zip(found, bounds, strict=True))


def test_it_looks_seldom_and_says_once_what_is_wrong(
    lab: Lab, reader: ReconnectingReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def look(name: str, options: Options) -> Reader:
        looks.append(time.monotonic())
        return open_reader(name, options)

    monkeypatch.setattr("zbuf.consumer.reading.reconnecting.open_reader", look)
    lab.close()
    assert reader.next_buffer(timeout=1) is None
    assert len(looks) <= 6  # 0, then at least 0.05, 0.1, 0.2, 0.4 later, and perhaps one more
    assert caplog.text.count("is away; this reader goes on trying: no producer") == 1


def test_no_permission_is_told(
    lab: Lab, reader: ReconnectingReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, _options: Options) -> Reader:
        raise ProducerNotFound(f"producer {name!r}: no permission to use its socket")

    lab.close()
    monkeypatch.setattr("zbuf.consumer.reading.reconnecting.open_reader", refused)
    assert reader.next_buffer(timeout=0.3) is None
    assert caplog.text.count("no permission to use its socket") == 1
