"""How commands end: by signals, broken pipes, closed streams and full disks."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from support.commands import Commands, command, end, run, tcpdump, told, wait_line
from support.processes import LIMIT_S, numbered
from support.replays import (
    COUNT,
    PAGE,
    adds_up,
    numbers_in,
    start_dump,
    start_replay,
    wait_for_readers,
    wait_until_some_are_delivered,
)

from zbuf.consumer import connect
from zbuf.producer import Producer

pytestmark = pytest.mark.usefixtures("run_dir")

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@SIGNALS
def test_signal_ends_a_replay_in_good_order(
    commands: Commands, producer_name: str, numbered_pcap: Path, run_dir: Path, number: int
) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--loop", "0", "--json")
    with connect(producer_name) as reader:
        assert reader.next_buffer(LIMIT_S) is not None
        replay.send_signal(number)
        for _ in reader.buffers():
            pass
        assert reader.end_reason == "closed"
    done = end(replay)
    assert done.returncode == 0
    assert told(done.stderr) == []
    report = json.loads(done.stdout)
    assert report["packets"] >= report["descriptors"][0]["received"] > 0
    assert adds_up(report["descriptors"][0])
    assert list(run_dir.iterdir()) == []


@SIGNALS
def test_signal_ends_the_wait_for_readers(
    commands: Commands, producer_name: str, numbered_pcap: Path, number: int
) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "1", "--json")
    replay.send_signal(number)
    done = end(replay)
    assert done.returncode == 0
    assert told(done.stderr) == []
    assert json.loads(done.stdout)["packets"] == 0


@SIGNALS
def test_signal_ends_a_busy_dump_with_a_whole_file_and_its_counts(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    start_replay(commands, producer_name, numbered_pcap, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", out)
    wait_for_readers(producer_name, 1)
    wait_until_some_are_delivered(producer_name)
    dump.send_signal(number)
    done = end(dump)
    assert done.returncode == 0
    found = numbers_in(out)
    assert found == [(found[0] + at) % COUNT for at in range(len(found))]
    assert len(tcpdump(out)) == len(found)
    said = told(done.stderr)
    assert said[0] == f"{len(found)} packets captured"
    assert int(said[1].split()[0]) >= len(found)
    assert said[1].endswith(" packets received by filter")
    assert said[2] == "0 packets dropped by zbuf"


@SIGNALS
def test_signal_ends_a_dump_that_waits_with_what_came_so_far(
    commands: Commands, producer_name: str, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    with Producer(producer_name) as producer:
        dump = commands.start("zbuf", "dump", producer_name, "-w", out)
        assert producer.wait_readers(1, LIMIT_S)
        for packet in range(5):
            producer.append(numbered(packet))
        while sum(one.delivered for one in producer.stats().descriptors) < 5:
            os.sched_yield()
        dump.send_signal(number)
        done = end(dump)
    assert done.returncode == 0
    assert numbers_in(out) == list(range(5))
    assert told(done.stderr)[:2] == ["5 packets captured", "5 packets received by filter"]


@SIGNALS
def test_signal_right_after_the_first_line_of_a_dump_ends_it_in_good_order(
    commands: Commands, producer_name: str, number: int
) -> None:
    with Producer(producer_name):
        dump = commands.start("zbuf", "dump", producer_name)  # without -w it starts tcpdump after that line
        wait_line(dump.stderr, "reading")
        dump.send_signal(number)
        done = end(dump)
    assert done.returncode == 0, done.stderr
    assert told(done.stderr)[0] == "0 packets captured"


def test_dump_into_a_pipe_that_breaks_is_quiet(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    start_replay(commands, producer_name, numbered_pcap, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", "-")
    assert dump.stdout is not None
    assert os.read(dump.stdout.fileno(), 4)
    dump.stdout.close()
    assert dump.wait(LIMIT_S) in (0, 1)
    assert dump.stderr is not None
    assert told(dump.stderr.read()) == []


@pytest.mark.parametrize("action", [["ls"], ["ls", "--json"], ["stats"], ["stats", "--json"]], ids=" ".join)
def test_table_into_a_pipe_that_is_broken_is_quiet(producer_name: str, action: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    name = [producer_name] if action[0] == "stats" else []
    try:
        with Producer(producer_name), connect(producer_name):
            line = command("zbuf", *action, *name)
            done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, check=False, text=True, timeout=LIMIT_S)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("action", "closed", "status"),
    [
        ("ls --json", ">&-", 0),
        ("top --once", "<&- >&- 2>&-", 0),
        ("dump -r FILE", ">&- 2>&-", 0),
        ("dump -r FILE -w -", ">&-", 0),
        ("dump -r - -w /dev/null", "<&-", 1),
    ],
)
def test_standard_stream_that_is_closed_is_as_good_as_dev_null(
    numbered_pcap: Path, run_dir: Path, action: str, closed: str, status: int
) -> None:
    del run_dir
    words = command("zbuf", *action.replace("FILE", str(numbered_pcap)).split())
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(line, capture_output=True, check=False, text=True, timeout=LIMIT_S)
    assert done.returncode == status, done.stderr
    assert len(told(done.stderr)) <= 3  # counts, or an error
    assert done.stdout == ""


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_report_into_a_pipe_that_is_broken_is_quiet(
    numbered_pcap: Path, producer_name: str, options: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        line = command("zbufd", "replay", numbered_pcap, "--name", producer_name, *options)
        done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, check=False, text=True, timeout=LIMIT_S)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    assert told(done.stderr) == []


@pytest.mark.parametrize("size", ["64k", "2M"])
def test_full_disk_is_one_line_beside_the_counts_and_what_was_written_is_a_whole_file(
    commands: Commands, producer_name: str, numbered_pcap: Path, small_disk: Path, size: str
) -> None:
    out = small_disk / "out"
    replay = start_replay(commands, producer_name, numbered_pcap, "--loop", "0", "--lossless", "--wait-readers", "1")
    done = end(start_dump(commands, producer_name, "-w", out, "--buffer-size", size))
    assert replay.poll() is None  # it goes on without that reader
    found = numbers_in(out)
    counts, line = told(done.stderr)[:-1], told(done.stderr)[-1]
    assert done.returncode == 1
    assert line == f"zbuf: {out}: No space left on device: it holds {len(found)} packets, and is whole"
    assert (len(counts), counts[0]) == (3, f"{len(found)} packets captured")
    assert found == [at % COUNT for at in range(len(found))]
    assert len(tcpdump(out)) == len(found)
    assert out.stat().st_size > (1 << 20) - PAGE  # as many as there was room for


def test_full_device_is_one_line(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--loop", "0")
    done = run("zbuf", "dump", producer_name, "-w", "/dev/full")
    assert done.returncode == 1
    assert told(done.stderr)[-1] == "zbuf: /dev/full: No space left on device: nothing is written"
    assert replay.poll() is None
