"""Embedding: any Python program is a producer, and readers in other processes get what it appends."""

import contextlib
import gc
import itertools
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, again, pcap, received, sample
from support.processes import LIMIT_S, Remote, number_of, numbered, open_fds, take, take_all

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import FileSource, Producer, RawPacket
from zbuf.producer.serving.limits import Limits
from zbuf.shared.control.statistics import DescriptorStatistics, Ledger
from zbuf.shared.errors import ControlError, ProducerExists, ProducerNotFound, Refused, RunDirectoryError, ValueRefused

PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""

NewRemote = Callable[[], Remote]


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    """All of these tests have a run directory of their own."""
    return run_dir


def adds_up(ledger: Ledger) -> bool:
    accepted = ledger.delivered + ledger.dropped + ledger.abandoned + ledger.buffered
    return ledger.received == ledger.filtered + ledger.accepted and ledger.accepted == accepted


def segments(name: str) -> list[str]:
    return sorted(entry.name for entry in Path("/dev/shm").glob(f"zbuf.{name}.*"))


def only(descriptors: list[DescriptorStatistics]) -> DescriptorStatistics:
    (one,) = descriptors
    return one


@contextlib.contextmanager
def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[list[Any]]:
    """Call a function in a thread; what it returns is in the list once the block is over."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    yield results
    thread.join(LIMIT_S)
    assert not thread.is_alive(), f"{function.__name__}() does not return"


# ---- from one process to another ------------------------------------------------------------------------------------


def test_what_one_process_appends_another_receives(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name) as producer:
        process.do("reader = connect(name)", name=producer_name)
        for number in range(1000):
            assert producer.append(numbered(number))
        process.begin("take_all(reader)")
    assert process.result() == list(range(1000))
    assert process.ask("reader.end_reason") == "closed"


def test_what_another_process_appends_is_received_here(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    with connect(producer_name) as reader:
        process.begin("for number in range(1000): producer.append(numbered(number))\nproducer.close()")
        assert take_all(reader) == list(range(1000))
    process.result()


def test_files_that_are_published_reach_several_processes(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    records = sample(1000)
    (tmp_path / "lab.pcap").write_bytes(pcap(records))
    readers = [remote() for _ in range(3)]
    with Producer(producer_name) as producer:
        for process in readers:
            process.do("reader = connect(name)", name=producer_name)
        assert producer.publish(FileSource([str(tmp_path / "lab.pcap")]), loops=3) == 3 * len(records)
        for process in readers:
            process.begin("[(bytes(one), one.time_ns, one.wirelen) for one in reader]")
    for process in readers:
        assert process.result() == [(one.data, one.time_ns, one.wirelen) for one in again(records, 3)]


def test_everything_about_a_packet_arrives(producer_name: str) -> None:
    with Producer(producer_name, interfaces=["a", "b"], linktype=101) as producer, connect(producer_name) as reader:
        producer.append(b"abc", time_ns=17, wirelen=1500, interface=1, direction="out")
        producer.append(memoryview(b"x" * 3000)[1:], time_ns=2**64 - 1, direction="in")
        producer.append(b"", time_ns=0)
        reader.rotate()
        buffer = reader.next_buffer()
        assert buffer is not None
        assert [(bytes(one), one.time_ns, one.wirelen, one.interface, one.direction) for one in buffer] == [
            (b"abc", 17, 1500, 1, "out"),
            (b"x" * 2999, 2**64 - 1, 2999, 0, "in"),
            (b"", 0, 0, 0, "inout"),
        ]
        assert [(one.name, one.linktype) for one in reader.interfaces] == [("a", 101), ("b", 101)]


def test_packets_begin_with_the_first_one_after_connecting(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        producer.append(numbered(0))
        with connect(producer_name) as reader:
            producer.append(numbered(1))
            reader.rotate()
            assert take(reader, 1) == [1]


def test_packets_without_readers_are_offered_and_gone(producer_name: str) -> None:
    with Producer(producer_name, lossless=True) as producer:
        assert producer.publish(numbered(number) for number in range(10)) == 10
        assert (producer.offered, producer.stats().descriptors) == (10, [])


def test_raw_packets_keep_their_interface(producer_name: str) -> None:
    packets = [RawPacket(b"abc", 17, 1500, 1), RawPacket(b"d", 18)]
    with Producer(producer_name, interfaces=["a", "b"]) as producer, connect(producer_name) as reader:
        assert producer.publish(packets) == 2
        assert received(reader) == [Record(b"abc", 17, 1500, 1), Record(b"d", 18, 1, 0)]


def test_producers_of_one_process_are_independent(producer_name: str) -> None:
    with (
        Producer(f"{producer_name}1") as first,
        Producer(f"{producer_name}2") as second,
        connect(first.name) as one,
        connect(second.name) as two,
    ):
        first.append(numbered(1))
        second.append(numbered(2))
        assert [record.data for record in received(one)] == [numbered(1)]
        assert [record.data for record in received(two)] == [numbered(2)]


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"time_ns": -1}, "-1"),
        ({"time_ns": 2**64}, str(2**64)),
        ({"time_ns": "now"}, "'now'"),
        ({"wirelen": -1}, "-1"),
        ({"wirelen": 2**32}, str(2**32)),
        ({"interface": 1}, "interface 1: this producer has 1"),
        ({"interface": -1}, "interface -1"),
        ({"direction": "up"}, "direction 'up': it must be in, out or inout"),
    ],
)
def test_argument_out_of_its_range_is_refused_by_its_value(
    producer_name: str, options: dict[str, Any], value: str
) -> None:
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        with pytest.raises(ValueRefused, match=re.escape(value)):
            producer.append(b"abc", **options)
        producer.append(b"next", time_ns=1)
        assert received(reader) == [Record(b"next", 1, 4)]
        assert producer.offered == 1


def test_data_that_is_not_bytes_is_a_type_error(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        with pytest.raises(TypeError, match="bytes-like"):
            producer.append("text")
        assert producer.append(b"next")


@pytest.mark.parametrize("linktype", [-1, 65536, 1 << 28])
def test_link_type_that_no_capture_file_has_is_refused(producer_name: str, linktype: int) -> None:
    with pytest.raises(ValueRefused, match=str(linktype)):
        Producer(producer_name, linktype=linktype).close()


@pytest.mark.parametrize("size", [0, -4096, 4095, 4097, (1 << 30) + 4096])
def test_buffer_size_that_can_not_be_is_refused_and_takes_no_name(producer_name: str, size: int) -> None:
    with pytest.raises(ValueRefused, match=f"buffer size {size}"):
        Producer(producer_name, buffer_size=size)
    Producer(producer_name).close()


@pytest.mark.parametrize("name", ["", "a/b", "x" * 49, "../up"])
def test_name_that_can_not_be_is_refused(name: str) -> None:
    with pytest.raises(ValueRefused, match="producer name"):
        Producer(name)


def test_socket_path_that_is_too_long_is_refused_before_anything_is_made(producer_name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueRefused, match="longer than 107 bytes: use a shorter --run-dir"):
        Producer(producer_name, run_dir=tmp_path / ("x" * 100))
    assert list(tmp_path.iterdir()) == []


def test_run_directory_that_is_a_file_is_refused_by_its_name(producer_name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=f"run directory {tmp_path}/file: .+: choose another"):
        Producer(producer_name, run_dir=tmp_path / "file")


def test_control_socket_that_can_not_be_made_gives_the_name_back(producer_name: str, run_dir: Path) -> None:
    (run_dir / f"{producer_name}.sock").mkdir()
    gc.collect()
    before = open_fds()
    with pytest.raises(RunDirectoryError, match=f"control socket .*{re.escape(producer_name)}.sock"):
        Producer(producer_name)
    assert open_fds() == before
    (run_dir / f"{producer_name}.sock").rmdir()
    Producer(producer_name).close()


def test_several_files_for_a_producer_of_one_interface_are_refused(producer_name: str, tmp_path: Path) -> None:
    # Packets of an interface that the prologue does not describe would make a file that no tool reads.
    for name in ("a.pcap", "b.pcap"):
        (tmp_path / name).write_bytes(pcap(sample(1000, [60])))
    source = FileSource([str(tmp_path / "a.pcap"), str(tmp_path / "b.pcap")])
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        with pytest.raises(ValueRefused, match="interface"):
            producer.publish(source)
        assert [record.interface for record in received(reader)] in ([], [0])


# ---- names ----------------------------------------------------------------------------------------------------------


def test_name_of_another_process_is_taken_and_free_again_once_that_is_killed(
    remote: NewRemote, producer_name: str, run_dir: Path
) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    with pytest.raises(ProducerExists, match=f"producer '{producer_name}' runs already in {run_dir}: stop it"):
        Producer(producer_name)
    process.kill()
    Producer(producer_name).close()


def test_name_of_this_process_is_taken_until_close(producer_name: str) -> None:
    with Producer(producer_name), pytest.raises(ProducerExists):
        Producer(producer_name)
    Producer(producer_name).close()


def test_refused_second_producer_does_the_first_no_harm(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        with pytest.raises(ProducerExists):
            Producer(producer_name)
        producer.append(numbered(1))
        assert [record.data for record in received(reader)] == [numbered(1)]
        connect(producer_name).close()


def test_two_run_directories_are_two_names(producer_name: str, run_dir: Path) -> None:
    with (
        Producer(producer_name) as first,
        Producer(producer_name, run_dir=run_dir / "b") as second,
        connect(producer_name) as one,
        connect(producer_name, run_dir=run_dir / "b") as two,
    ):
        assert len(segments(producer_name)) == 2
        first.append(numbered(1))
        second.append(numbered(2))
        assert [record.data for record in received(one)] == [numbered(1)]
        assert [record.data for record in received(two)] == [numbered(2)]


# ---- what a killed producer left ------------------------------------------------------------------------------------


def test_segments_of_a_killed_producer_are_removed_with_a_warning_that_counts_the_packets(
    remote: NewRemote, producer_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    reader, other = connect(producer_name), connect(producer_name, filter="len < 10")
    process.do("for number in range(4): producer.append(numbered(number))")
    reader.rotate()
    assert take(reader, 4) == [0, 1, 2, 3]
    assert reader.next_buffer(timeout=0) is None  # gives the four back
    process.do("producer.stats(); [producer.append(numbered(number)) for number in range(4, 10)]")
    reader.rotate()
    process.do("[producer.append(numbered(number)) for number in range(10, 13)]")
    process.kill()
    assert len(segments(producer_name)) == 2

    with caplog.at_level(logging.WARNING, "zbuf"), Producer(producer_name):
        assert segments(producer_name) == []
    (warning,) = caplog.messages
    assert warning.startswith(f"{producer_name}: removed 2 segments of a producer that was killed; 9 packets")
    assert take_all(reader) == list(range(4, 13))  # what has it open has it still
    reader.close()
    other.close()


def test_nothing_is_said_where_nothing_was_left(producer_name: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with Producer(producer_name) as producer, connect(producer_name) as reader:
            producer.append(numbered(1))
            assert len(received(reader)) == 1
    assert caplog.messages == []
    assert segments(producer_name) == []


def test_segments_of_a_living_producer_of_that_name_are_left_alone(
    remote: NewRemote, producer_name: str, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = remote()
    process.do("producer = Producer(name, run_dir=elsewhere)", name=producer_name, elsewhere=str(run_dir / "b"))
    with connect(producer_name, run_dir=run_dir / "b") as reader:
        process.do("producer.append(numbered(1))")
        with Producer(producer_name):
            assert len(segments(producer_name)) == 1
        assert caplog.messages == []
        assert [record.data for record in received(reader)] == [numbered(1)]


def test_segments_of_a_name_that_begins_alike_are_left_alone(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    process.do("producer = Producer(name + '.7')", name=producer_name)
    with connect(f"{producer_name}.7"):
        process.kill()
        Producer(producer_name).close()
        assert len(segments(f"{producer_name}.7")) == 1


def test_killed_producer_is_not_listed_and_its_socket_is_nobody(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    process.kill()
    with pytest.raises(ProducerNotFound, match=f"no producer '{producer_name}' runs in"):
        connect(producer_name)


def test_closed_producer_leaves_nothing_behind(producer_name: str, run_dir: Path) -> None:
    gc.collect()
    fds, threads = open_fds(), threading.active_count()
    for _ in range(20):
        with Producer(producer_name), connect(producer_name, buffer_size=PAGE), connect(producer_name, join="group"):
            pass
    assert list(run_dir.iterdir()) == []
    assert segments(producer_name) == []
    assert (open_fds(), threading.active_count()) == (fds, threads)


def test_program_that_forgets_to_close_ends_all_the_same(producer_name: str) -> None:
    program = f"""
from zbuf.producer import Producer
from zbuf.consumer import connect
producer = Producer({producer_name!r})
reader, spinner = connect({producer_name!r}), connect({producer_name!r}, wait="spin")
producer.append(b"abc")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    Producer(producer_name).close()


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


# ---- stop -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lossless", [False, True])
def test_stop_from_another_thread_ends_the_endless_publishing_of_a_file(
    producer_name: str, tmp_path: Path, lossless: bool
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap(sample(1000)))
    with (
        Producer(producer_name, lossless=lossless, linger_s=0) as producer,
        connect(producer_name, buffer_size=1 << 20) as reader,
    ):
        with in_thread(producer.publish, FileSource([str(tmp_path / "lab.pcap")]), loops=0) as results:
            assert reader.next_buffer(LIMIT_S) is not None
            producer.stop()
        assert results == [producer.offered]
        assert producer.stopped
        assert adds_up(only(producer.stats().descriptors))


def test_stop_from_another_thread_ends_the_publishing_of_an_endless_iterator(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name, immediate=True) as reader:
        with in_thread(producer.publish, map(numbered, itertools.count())) as results:
            take(reader, 1)
            producer.stop()
        assert results[0] > 0


def test_stop_ends_the_wait_of_a_lossless_producer_for_a_reader_that_does_not_read(producer_name: str) -> None:
    with (
        Producer(producer_name, lossless=True, linger_s=0) as producer,
        connect(producer_name, buffer_size=PAGE) as reader,
    ):
        with in_thread(producer.publish, map(numbered, itertools.count())):
            while only(reader.stats().descriptors).buffered < 2 * PER_PAGE:
                os.sched_yield()
            producer.stop()
        ledger = only(producer.stats().descriptors)
        assert (ledger.received, ledger.dropped, ledger.buffered) == (2 * PER_PAGE, 0, 2 * PER_PAGE)
        assert not producer.append(numbered(0))


def test_interrupt_in_the_middle_of_publishing_ends_it_in_good_order(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap(sample(1000)))
    process = remote()
    process.do("source = FileSource([path])", path=str(tmp_path / "lab.pcap"))
    process.do("producer = Producer(name, linger_s=0)", name=producer_name)
    with connect(producer_name) as reader:
        process.begin("with producer: producer.publish(source, loops=0)")
        assert reader.next_buffer(LIMIT_S) is not None
        process.signal(2)
        with pytest.raises(KeyboardInterrupt):
            process.result()
        for _ in reader.buffers():
            pass
        assert reader.end_reason == "closed"
        assert adds_up(reader.ledger())


def test_interrupt_in_the_middle_of_somebody_elses_request_leaves_nobody_waiting(
    remote: NewRemote, producer_name: str
) -> None:
    # Whoever appends carries out what others have asked for meanwhile, and that is where Ctrl-C may hit.
    process = remote()
    process.do("producer = Producer(name, linger_s=0)", name=producer_name)
    process.do(
        """
        def interrupt(*_):
            raise KeyboardInterrupt

        def ask():
            try:
                producer.stats()
            except BaseException:
                pass

        producer._roster.statistics = interrupt
        owner = producer._owner
        owner._right.acquire()
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        while not any("stats" in command.__qualname__ for command, _ in list(owner._commands)):
            pass
        owner._right.release()
        try:
            owner._serve_if_idle()
        except KeyboardInterrupt:
            interrupted = True
        asking.join(5)
        """
    )
    assert process.ask("interrupted")
    assert not process.ask("asking.is_alive()")
    process.do("producer.close()")


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
    producer = Producer(producer_name, linger_s=0)
    with connect(producer_name) as reader:
        producer.append(numbered(1))
        producer.close()
        assert caplog.messages == [f"{producer_name}: readers have not taken everything within 0 s"]
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


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_more_descriptors_than_may_be_are_refused_until_one_is_free(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(descriptors=2)), connect(producer_name):
        second = connect(producer_name, join="group")
        with pytest.raises(Refused, match="all 2 descriptors of this producer are in use"):
            connect(producer_name)
        with pytest.raises(Refused, match="all 2 descriptors of this producer are in use"):
            connect(producer_name, join="another")
        connect(producer_name, join="group").close()
        second.close()
        retry(lambda: connect(producer_name)).close()


def test_more_readers_than_may_be_are_refused_until_one_is_gone(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(readers=2)), connect(producer_name, join="group"):
        second = connect(producer_name)
        for join in (None, "group", "another"):
            with pytest.raises(Refused, match="all 2 readers that this producer serves are there"):
                connect(producer_name, join=join)
        assert len(segments(producer_name)) == 2
        second.close()
        retry(lambda: connect(producer_name)).close()


def test_more_connections_than_may_be_are_refused_until_one_is_gone(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(connections=2)), connect(producer_name):
        second = Connection(producer_name)
        second.stats()
        for _ in range(30):  # whether it is refused before or after it asks: it learns why
            with Connection(producer_name) as third, pytest.raises(ControlError, match="more than 2 connections"):
                third.stats()
        with pytest.raises(ControlError, match="more than 2 connections"):
            connect(producer_name)
        second.close()
        retry(lambda: connect(producer_name)).close()


def retry(function: Callable[[], Any]) -> Any:
    """Try until it is not refused: the producer may not have seen yet that somebody left."""
    for _ in range(100_000):
        with contextlib.suppress(ControlError):
            return function()
    raise AssertionError("it is refused for ever")


# ---- forked children ------------------------------------------------------------------------------------------------


FORK = """
carried_out, done = os.pipe()
child = os.fork()
if child == 0:
    try:
        {code}
        os.write(done, b".")
        while True:
            signal.pause()
    finally:
        os._exit(0)
assert os.read(carried_out, 1) == b"."
"""


@pytest.fixture
def fork_child() -> Iterator[Callable[..., None]]:
    """fork_child(process, code): fork a child of a Remote, which carries out `code` and outlives what the test does."""
    with contextlib.ExitStack() as cleaning:

        def fork(process: Remote, code: str = "pass") -> None:
            process.do(FORK.format(code=code))
            pidfd = os.pidfd_open(process.ask("child"))
            cleaning.callback(os.close, pidfd)
            cleaning.callback(signal.pidfd_send_signal, pidfd, signal.SIGKILL)
            cleaning.callback(assert_lives, pidfd)

        yield fork


def assert_lives(pidfd: int) -> None:
    assert not select.select([pidfd], [], [], 0)[0], "the child did not outlive the test, which needed it to"


@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_forked_child_of_a_program_does_not_keep_its_producer_alive(
    remote: NewRemote, producer_name: str, fork_child: Callable[..., None], wait: Any
) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    with connect(producer_name, wait=wait) as reader, connect(producer_name, join="g") as joined:
        fork_child(process)
        process.do("for number in range(100): producer.append(numbered(number))")
        process.kill()
        assert take_all(reader) == list(range(100))
        assert take_all(joined) == list(range(100))
        assert reader.end_reason == joined.end_reason == "producer died"
        Producer(producer_name).close()


def test_forked_child_can_not_write_into_its_parents_buffers(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap([Record(numbered(666), 0, 60)]))
    process = remote()
    process.do("source = FileSource([path])", path=str(tmp_path / "lab.pcap"))
    process.do("producer = Producer(name, linger_s=0)", name=producer_name)
    attempts = [
        "producer.append(numbered(666))",
        "producer.publish([numbered(666)])",
        "producer.publish(source)",
        "producer.close()",
        "producer.stop()",
    ]
    with connect(producer_name) as reader:
        process.do(
            """
            import contextlib
            told, tell = os.pipe()
            child = os.fork()
            if child == 0:
                os.read(told, 1)
                for attempt in attempts:
                    with contextlib.suppress(Exception):
                        eval(attempt)
                os._exit(0)
            producer.append(numbered(1))
            os.write(tell, b"!")
            os.waitpid(child, 0)
            producer.append(numbered(2))
            producer.close()
            """,
            attempts=attempts,
        )
        assert take_all(reader) == [1, 2]
        assert reader.end_reason == "closed"


def test_forked_child_that_ends_takes_nothing_with_it(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    with connect(producer_name) as reader:
        process.do(
            """
            child = os.fork()
            if child == 0:
                producer.close()
                del producer
                os._exit(0)
            os.waitpid(child, 0)
            producer.append(numbered(1))
            """
        )
        with pytest.raises(ProducerExists):
            Producer(producer_name)
        assert len(segments(producer_name)) == 1
        assert [record.data for record in received(reader)] == [numbered(1)]


def test_forked_child_can_be_a_producer_of_its_own(
    remote: NewRemote, producer_name: str, fork_child: Callable[..., None]
) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    fork_child(process, "producer = Producer(name + 'child')")
    connection = retry_not_found(lambda: connect(f"{producer_name}child"))
    with connection as of_child, connect(producer_name) as of_parent:
        assert of_child.stats().pid != of_parent.stats().pid == process.pid


def retry_not_found(function: Callable[[], Any]) -> Any:
    """Try until the producer is there."""
    while True:
        with contextlib.suppress(ProducerNotFound):
            return function()


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_add_up_at_every_call_while_packets_flow(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap([Record(numbered(number), 0, 60) for number in range(100)]))
    process, busy = remote(), remote()
    process.do(
        "producer = Producer(name, linger_s=0); source = FileSource([path])",
        name=producer_name,
        path=str(tmp_path / "lab.pcap"),
    )
    busy.do("reader = connect(name, buffer_size=65536)", name=producer_name)
    with (
        connect(producer_name, filter="len < 10"),
        connect(producer_name, buffer_size=PAGE),
        Connection(producer_name) as control,
    ):
        process.begin("producer.publish(source, loops=0)")
        busy.begin("sum(len(buffer) for buffer in reader.buffers())")
        offered = -1
        for _ in range(100):
            found = control.stats()
            assert len(found.descriptors) == 3
            assert all(adds_up(one) and one.received <= found.offered + 256 for one in found.descriptors)
            assert len({one.received for one in found.descriptors}) <= 3
            assert found.offered >= offered
            offered = found.offered
        assert offered > 0
        filtered, slow = found.descriptors[1:]
        assert filtered.filtered == filtered.received > 0
        assert slow.dropped == slow.received - 2 * PER_PAGE
        process.signal(2)
        with pytest.raises(KeyboardInterrupt):
            process.result()
        process.do("producer.close()")
        assert busy.result() > 0
        ledger = busy.ask("reader.ledger()")
        assert adds_up(ledger)


def test_sums_of_descriptors_that_are_gone_stay(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        for number in range(3):
            with connect(producer_name) as reader:
                producer.append(numbered(number))
                reader.rotate()
                take(reader, 1)
                producer.append(numbered(99))
        while producer.stats().descriptors:
            os.sched_yield()
        closed = producer.stats().closed
        assert (closed.received, closed.accepted, closed.buffered) == (6, 6, 0)
        assert closed.delivered + closed.abandoned == 6
        assert adds_up(closed)
        assert [one.received for one in producer.final_stats().descriptors] == [2, 2, 2]


def test_statistics_tell_whose_each_reader_is(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name, interfaces=["eth7"], linktype=101) as producer:
        process.do("readers = [connect(name, filter='tcp', snaplen=96), connect(name, join='g')]", name=producer_name)
        with connect(producer_name, join="g"):
            found = producer.stats()
        assert (found.producer, found.pid, found.linktype, found.interfaces) == (
            producer_name,
            os.getpid(),
            101,
            ["eth7"],
        )
        private, shared = found.descriptors
        assert (private.join, private.settings.filter, private.settings.snaplen) == (None, "tcp", 96)
        assert [one.pid for one in private.readers] == [process.pid]
        assert shared.join == "g"
        assert sorted(one.pid for one in shared.readers) == sorted([process.pid, os.getpid()])
