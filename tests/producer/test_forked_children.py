"""A forked child neither keeps its parent's producer alive nor harms it."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap, received
from support.embedding import NewRemote, segments
from support.processes import Remote, numbered, take_all

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.shared.errors import ProducerExists, ProducerNotFound

pytestmark = pytest.mark.usefixtures("run_dir")

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
