"""A producer waits for its readers: for them to come, for room, for the last acknowledgement."""

import contextlib
import os
import threading
from pathlib import Path

import pytest
from support.captures import pcap, sample
from support.embedding import PAGE, PER_PAGE, NewRemote, in_thread, only
from support.processes import LIMIT_S, number_of, numbered, take, take_all

from zbuf.consumer import connect
from zbuf.producer import FileSource, Producer
from zbuf.shared.errors import ValueRefused

pytestmark = pytest.mark.usefixtures("run_dir")

# ---- waiting for readers --------------------------------------------------------------------------------------------


def test_wait_readers_comes_back_when_there_are_as_many(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name) as producer:
        with in_thread(producer.wait_readers, 3) as results:
            process.do(
                "readers = [connect(name), connect(name, join='g'), connect(name, join='g')]", name=producer_name
            )
        assert results == [True]
        assert producer.wait_readers(3, 0)


def test_wait_readers_says_when_the_time_is_over(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name):
        assert not producer.wait_readers(2, 0)
        assert not producer.wait_readers(2, 0.01)
        assert producer.wait_readers(1, 0)
        assert producer.wait_readers(0, 0)


def test_wait_readers_ends_with_stop(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        with in_thread(producer.wait_readers, 1) as results:
            producer.stop()
        assert results == [False]


def test_reader_that_left_is_not_counted(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name) as producer:
        process.do("reader = connect(name)", name=producer_name)
        assert producer.wait_readers(1, 0)
        process.kill()
        connect(producer_name).close()  # one after the other: the killed one is off by now
        while producer.stats().descriptors:
            os.sched_yield()
        assert not producer.wait_readers(1, 0)


# ---- lossless -------------------------------------------------------------------------------------------------------


def test_lossless_producer_waits_for_its_readers_in_place_of_dropping(remote: NewRemote, producer_name: str) -> None:
    processes = [remote() for _ in range(2)]
    count = 20 * PER_PAGE + 5
    producer = Producer(producer_name, lossless=True, linger_s=None)
    with connect(producer_name, buffer_size=PAGE) as private:
        for process in processes:
            process.do("reader = connect(name, join='g', buffer_size=4096)", name=producer_name)
            process.begin("take_all(reader)")
        with in_thread(producer.publish, map(numbered, range(count))) as results:
            found = take(private, count - PER_PAGE)
        assert results == [count]
        with in_thread(producer.close):
            assert found + take_all(private) == list(range(count))
    assert [process.result() for process in processes] == 2 * [list(range(count))]
    for ledger in producer.final_stats().descriptors:
        assert (ledger.received, ledger.delivered, ledger.dropped) == (count, count, 0)


def test_lossless_producer_waits_for_nobody_once_the_reader_is_killed(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name, lossless=True) as producer:
        process.do("reader = connect(name, buffer_size=4096)", name=producer_name)
        with in_thread(producer.publish, map(numbered, range(10 * PER_PAGE))) as results:
            while only(producer.stats().descriptors).buffered < 2 * PER_PAGE:
                os.sched_yield()
            process.kill()
        assert results == [10 * PER_PAGE]
        ledger = only(producer.final_stats().descriptors)
        assert (ledger.abandoned, ledger.dropped) == (2 * PER_PAGE, 0)


def test_producer_that_may_lose_packets_counts_them_and_goes_on(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name, buffer_size=PAGE) as reader:
        producer.publish(map(numbered, range(5 * PER_PAGE)))
        ledger = only(reader.stats().descriptors)
        assert (ledger.received, ledger.buffered, ledger.dropped) == (5 * PER_PAGE, 2 * PER_PAGE, 3 * PER_PAGE)
        assert take(reader, 2 * PER_PAGE) == list(range(2 * PER_PAGE))
        assert reader.next_buffer(timeout=0) is None
        producer.append(numbered(999))
        reader.rotate()
        buffer = reader.next_buffer()
        assert buffer is not None
        assert [(number_of(bytes(packet)), packet.dropped) for packet in buffer] == [(999, 3 * PER_PAGE)]
        assert buffer.dropped_before == 3 * PER_PAGE


# ---- close ----------------------------------------------------------------------------------------------------------


def test_close_waits_until_the_readers_have_taken_everything(producer_name: str) -> None:
    producer = Producer(producer_name, linger_s=None)
    reader = connect(producer_name)
    producer.append(numbered(1))
    with in_thread(producer.close):
        buffer = reader.next_buffer(LIMIT_S)  # the tail, which close() assigned
        assert buffer is not None
        assert threading.active_count() > 1
        assert only(reader.stats().descriptors).buffered == 1
        buffer.acknowledge()
    assert reader.next_buffer() is None
    assert reader.end_reason == "closed"
    reader.close()


def test_close_waits_no_longer_than_told_and_says_so(producer_name: str, caplog: pytest.LogCaptureFixture) -> None:
    producer = Producer(producer_name, linger_s=0.1)
    with connect(producer_name) as reader:
        producer.append(numbered(1))
        producer.close()
        assert caplog.messages == [f"{producer_name}: readers have not taken everything within 0.1 s"]
        assert take_all(reader) == [1]  # what was assigned can be read all the same
        assert reader.end_reason == "closed"


def test_close_without_readers_or_packets_waits_for_nothing(
    producer_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer(producer_name, linger_s=None)
    with connect(producer_name):
        producer.close()
    assert caplog.messages == []


def test_close_can_be_called_again(producer_name: str) -> None:
    producer = Producer(producer_name)
    producer.close()
    producer.close()
    with producer:
        pass


def test_closed_producer_takes_no_packets(producer_name: str, tmp_path: Path) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap(sample(1000, [60])))
    source = FileSource([str(tmp_path / "lab.pcap")])
    producer = Producer(producer_name)
    producer.close()
    with pytest.raises(ValueRefused, match="is closed"):
        producer.append(b"abc")
    with pytest.raises(ValueRefused, match="is closed"):
        producer.publish([b"abc"])
    with pytest.raises(ValueRefused, match="is closed"):
        producer.publish(source)


def test_exception_in_the_with_block_closes_the_producer(producer_name: str) -> None:
    with contextlib.suppress(ZeroDivisionError), Producer(producer_name) as producer:
        reader = connect(producer_name)
        producer.append(numbered(1))
        with in_thread(take_all, reader) as results, producer:
            raise ZeroDivisionError
    assert results == [[1]]
    assert reader.end_reason == "closed"
    reader.close()
    Producer(producer_name).close()


def test_statistics_are_there_after_close(producer_name: str) -> None:
    with Producer(producer_name, linger_s=0) as producer:
        reader = connect(producer_name, filter="len > 100")
        producer.append(numbered(1))
        producer.append(numbered(2, size=200))
    ledger = only(producer.final_stats().descriptors)
    assert (ledger.received, ledger.filtered, ledger.accepted, ledger.buffered) == (2, 1, 1, 1)
    assert not ledger.open
    assert producer.stats().descriptors == []
    reader.close()
