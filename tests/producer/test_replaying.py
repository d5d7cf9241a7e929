"""replay() and connect(file=): a capture file, published and read in one program."""

import asyncio
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.captures import pcap
from support.processes import open_fds, take_all
from support.replays import records
from support.rig import run_python, wait_until

from zbuf import (
    CaptureFileError,
    ProducerExists,
    ProducerNotFound,
    Refused,
    ValueRefused,
    connect,
    connect_async,
    replay,
)

COUNT = 3000
NUMBERS = list(range(COUNT))


@pytest.fixture
def capture(tmp_path: Path, run_dir: Path) -> Path:
    """A capture file of numbered packets, and a run directory for replays."""
    del run_dir
    path = tmp_path / "lab.pcap"
    path.write_bytes(pcap(records(COUNT), nanoseconds=True))
    return path


def replaying_threads() -> list[str]:
    names = [one.name for one in threading.enumerate()]
    return [name for name in names if name.startswith("zbuf") and name != "zbuf-unmap"]  # which stays


# ---- replay() -------------------------------------------------------------------------------------------------------


def test_a_loop_over_a_replay_has_every_packet_and_ends(capture: Path) -> None:
    with replay(capture) as name:
        assert name == "lab"
        assert take_all(connect(name, buffer_size="4k")) == NUMBERS
    assert replaying_threads() == []


def test_a_replay_waits_for_as_many_readers_as_it_is_told(capture: Path) -> None:
    with replay(capture, wait_readers=2) as name, connect(name) as first, connect(name) as second:
        assert take_all(first) == NUMBERS
        assert take_all(second) == NUMBERS
        assert (first.end_reason, second.end_reason) == ("closed", "closed")


def test_leaving_the_block_ends_a_replay_that_nobody_reads_or_that_goes_on_for_ever(capture: Path) -> None:
    with replay(capture):
        pass
    with replay(capture, loops=0, buffer_size="4k") as name:
        reader = connect(name)
        next(iter(reader))
    assert replaying_threads() == []
    assert reader.end_reason is None
    assert take_all(reader)  # what it was given is still there
    reader.close()


def test_a_rate_sets_the_time_that_a_replay_takes(capture: Path) -> None:
    started = time.monotonic()
    with replay(capture, pps=COUNT / 0.3) as name:
        assert len(take_all(connect(name))) == COUNT
    assert time.monotonic() - started >= 0.29


def test_packets_carry_the_times_of_the_file_or_of_the_replay(capture: Path) -> None:
    times = [one.time_ns for one in records(COUNT)]
    with replay(capture) as name:
        assert [packet.time_ns for packet in connect(name)] == times
    before = time.time_ns()
    with replay(capture, stamp="now") as name:
        assert all(before <= packet.time_ns <= time.time_ns() for packet in connect(name))


def test_a_second_replay_of_a_file_has_a_name_of_its_own_and_a_chosen_name_is_kept(capture: Path) -> None:
    with replay(capture) as first, replay([capture, str(capture)]) as second:
        assert (first, second) == ("lab", "lab-2")
        assert take_all(connect(second)) == NUMBERS * 2
        with pytest.raises(ProducerExists, match="producer 'lab' runs already"):
            replay(capture, name="lab")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pps": 1, "mbps": 2}, ValueRefused, "pps=1 and mbps=2 are two speeds"),
        ({"pps": 0}, ValueRefused, "pps=0: it must be more than 0"),
        ({"multiplier": math.inf}, ValueRefused, "multiplier=inf"),
        ({"stamp": "then"}, ValueRefused, "stamp 'then'"),
        ({"loops": -1}, ValueRefused, "loops=-1"),
        ({"pps": "fast"}, TypeError, "^pps must be a number, a Fraction or None, not str: 'fast'"),
        ({"lossless": 1}, TypeError, "^lossless must be True or False"),
        ({"name": 3}, TypeError, "^name must be a str or None"),
    ],
)
def test_what_a_replay_can_not_be_is_refused_and_leaves_nothing(
    capture: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        replay(capture, **options)
    assert replaying_threads() == []


def test_a_file_that_is_not_there_is_an_error_of_the_call(run_dir: Path) -> None:
    for call in (lambda: replay(run_dir / "none.pcap"), lambda: connect(file=run_dir / "none.pcap")):
        with pytest.raises(CaptureFileError, match=r"none\.pcap: No such file"):
            call()
    assert list(run_dir.iterdir()) == []


# ---- connect(file=) -------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_a_capture_is(capture: Path) -> None:
    with connect(file=capture, filter="ether[0] < 128", buffer_size=5000) as reader:
        batches = list(map(len, reader.index_batches()))
        wanted = [one for one in records(COUNT) if one.data[0] < 128]
        assert sum(batches) == len(wanted)
        assert len(batches) > 3  # each buffer has 8192 bytes
        assert (reader.name, reader.end_reason, reader.linktype) == ("file:lab", "closed", 1)
        wait_until(lambda: reader.ledger().received == COUNT)
        assert reader.stats().offered == COUNT  # it can be asked until it is closed
        assert reader.stats().descriptors[0].settings.buffer_bytes == 8192


def test_a_loop_variable_that_keeps_a_view_does_not_hold_up_a_file(capture: Path) -> None:
    with connect(file=capture) as reader:
        for packet in reader:
            data = packet.data
        assert reader.end_reason == "closed"
    assert len(data) > 0
    del data, packet
    wait_until(lambda: not replaying_threads())


def test_a_reader_that_leaves_a_file_leaves_nothing_behind(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fds = open_fds()
    with connect(file=capture, buffer_size="4k") as reader:
        assert bytes(next(iter(reader))) == records(1)[0].data
    with connect(file=capture, buffer_size="4k") as reader:
        while not reader.stats().waits:  # it is in the middle of the file, and waits for us
            pass
    del reader  # which maps the segment
    wait_until(lambda: not replaying_threads())
    assert open_fds() == fds
    assert list(tmp_path.iterdir()) == [capture]
    assert not any("file:lab" in path.name for path in Path("/dev/shm").iterdir())


def test_a_refused_reader_of_a_file_leaves_nothing_behind(capture: Path) -> None:
    with pytest.raises(Refused, match="filter 'foo bar'"):
        connect(file=capture, filter="foo bar")
    assert replaying_threads() == []


def test_a_file_or_a_name_and_not_both(capture: Path) -> None:
    both: dict[str, Any] = {"name": "lab", "file": capture}
    for options in ({}, both):
        with pytest.raises(TypeError, match="give a producer's name or a file"):
            connect(**options)
    with pytest.raises(ValueRefused, match="a file ends once"):
        connect(file=capture, reconnect=True)


def test_asyncio_reads_a_file(capture: Path) -> None:
    async def read() -> int:
        async with connect_async(file=capture) as reader:
            return len([packet.caplen async for packet in reader])

    assert asyncio.run(read()) == COUNT


def test_a_program_that_ends_in_the_middle_of_a_file_ends_quietly(capture: Path) -> None:
    program = f"""
        from zbuf import connect
        reader = connect(file={str(capture)!r}, buffer_size=4096)
        print(len(next(iter(reader))))
    """
    assert run_python(program) == (0, f"{len(records(1)[0].data)}\n", "")


def test_the_packets_times_are_datetimes_in_an_index(capture: Path) -> None:
    with connect(file=capture) as reader:
        index = numpy.concatenate([batch.index for batch in reader.index_batches()])
    assert index["time"].dtype == "datetime64[ns]"
    assert index["time"].astype(int).tolist() == index["time_ns"].tolist() == [one.time_ns for one in records(COUNT)]
    numpy.save(capture.with_suffix(".npy"), index)  # a dtype whose fields overlap could not be saved
    assert (numpy.load(capture.with_suffix(".npy")) == index).all()


# ---- wait_s ---------------------------------------------------------------------------------------------------------


def test_connect_waits_for_a_producer_to_come(capture: Path, run_dir: Path) -> None:
    program = "from zbuf import connect; print(len(list(connect('late', wait_s=30))), flush=True)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdout=pipe, env={**os.environ}, text=True) as process:
        del run_dir
        with replay(capture, name="late"):
            assert process.communicate(timeout=60)[0] == f"{COUNT}\n"


def test_connect_waits_no_longer_than_it_is_told(run_dir: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ProducerNotFound, match=f"no producer 'none' runs in {run_dir}"):
        connect("none", wait_s=0.2)
    assert time.monotonic() - started >= 0.2
    with pytest.raises(ValueRefused, match="wait_s=-1"):
        connect("none", wait_s=-1)


def test_a_cancelled_wait_in_asyncio_leaves_no_thread_waiting(run_dir: Path) -> None:
    del run_dir

    async def wait() -> None:
        async with asyncio.timeout(0.1):
            await connect_async("none", wait_s=math.inf)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())  # which waits for its threads
