"""A producer has its name for itself, and cleans up after a killed one that had it."""

import gc
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.captures import received
from support.embedding import PAGE, NewRemote, segments
from support.processes import LIMIT_S, numbered, open_fds, take, take_all

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.shared.errors import ProducerExists, ProducerNotFound

pytestmark = pytest.mark.usefixtures("run_dir")

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
