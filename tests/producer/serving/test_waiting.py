"""A reader waits: it is woken by packets, signals and the end, and by nothing else."""

import select
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.embedding import PAGE, PER_PAGE, WAITS
from support.processes import LIMIT_S, Lab, Remote, number_of, take

from zbuf.consumer import connect


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
