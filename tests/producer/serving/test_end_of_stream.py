"""The stream ends: the reader learns why, and has had everything that was appended."""

import gc
import json
import os
import select
import signal
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.embedding import PAGE, PER_PAGE, WAITS
from support.processes import LIMIT_S, Lab, Remote, open_fds, take_all

from zbuf.consumer import connect
from zbuf.shared.errors import ControlError, ValueRefused


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


LOOPS = {
    "a packet's data": "for packet in reader:\n    kept = packet.data\n    count += 1",
    "the packet itself": "for packet in reader:\n    kept = packet\n    count += 1",
    "a part of a buffer": "for buffer in reader.buffers():\n    kept = buffer.data[:14]\n    count += len(buffer)",
    "an array": "for batch in reader.index_batches():\n    kept = batch.data\n    count += len(batch)",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_stream_ends_while_the_loop_s_variable_holds_the_last_buffer(
    remote: Callable[[], Remote], producer_name: str, loop: str, wait: str
) -> None:
    lab = Lab(remote(), producer_name, lossless=True, linger_s=0.05)
    process = remote()
    process.do("reader = connect(name, wait=wait, buffer_size=4096)\ncount = 0", name=lab.name, wait=wait)
    lab.process.begin("for number in range(300): producer.append(numbered(number))\nproducer.close()")
    process.do(loop)
    lab.process.result()  # whatever the variable holds, for no longer than it lingers
    assert process.ask("(count, reader.finished, reader.end_reason)") == (300, True, "closed")


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
    with pytest.raises(ValueRefused, match="is closed"):
        reader.next_buffer()
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
