"""zbufd replay: its report, its options, and the progress that it shows."""

import contextlib
import json
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.captures import again, pcap
from support.commands import Commands, end, run, told, wait_line
from support.processes import LIMIT_S, take_all
from support.replays import COUNT, LEDGER, PAGE, adds_up, records, start_replay

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.reader import Reader
from zbuf.shared import control

pytestmark = pytest.mark.usefixtures("run_dir")


def received_by(reader: Reader) -> list[int]:
    with reader:
        return take_all(reader)


@pytest.mark.parametrize("loops", [1, 3])
def test_report_in_json_has_the_packets_of_all_loops_and_adds_up(
    commands: Commands, producer_name: str, numbered_pcap: Path, loops: int
) -> None:
    replay = start_replay(
        commands, producer_name, numbered_pcap, "--loop", str(loops), "--wait-readers", "1", "--lossless", "--json"
    )
    assert received_by(connect(producer_name, buffer_size=PAGE)) == loops * list(range(COUNT))
    done = end(replay)
    assert (done.returncode, told(done.stderr)) == (0, [])
    report = json.loads(done.stdout)
    assert (report["producer"], report["packets"], report["warnings"]) == (producer_name, loops * COUNT, [])
    assert report["packets_per_second"] > 0
    (ledger,) = report["descriptors"]
    assert adds_up(ledger)
    counts = {name: ledger[name] for name in LEDGER}
    everything = loops * COUNT
    assert counts == dict.fromkeys(LEDGER, 0) | dict.fromkeys(("received", "accepted", "delivered"), everything)


def test_report_for_people_has_the_counts(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "1")
    received_by(connect(producer_name, filter="ether[0] = 3"))
    first, heading, row, processes = end(replay).stdout.splitlines()
    assert re.fullmatch(r"1,000 packets offered in \d+\.\d{3} s: [\d,]+ packets/s", first)
    assert heading.split() == ["descriptor", "filter", *LEDGER, "received", "bytes", "dropped", "bytes"]
    assert row.split()[-10:] == ["1,000", "996", "4", "4", "0", "0", "0", "0", "60,000", "0"]
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert processes == f"descriptor 1 was read by {name} ({os.getpid()})"


def test_replay_to_nobody_says_so(numbered_pcap: Path) -> None:
    done = run("zbufd", "replay", numbered_pcap)
    assert (done.returncode, told(done.stderr)) == (0, [])
    assert done.stdout.splitlines()[1:] == ["no reader was connected"]


@pytest.mark.parametrize("file", ["lab.pcap", "lab.7.pcapng.gz", "a b%c.cap", "noext"])
def test_name_is_the_stem_of_the_first_file_by_default(tmp_path: Path, file: str) -> None:
    expected = {"lab.pcap": "lab", "lab.7.pcapng.gz": "lab.7", "a b%c.cap": "a_b_c", "noext": "noext"}[file]
    (tmp_path / file).write_bytes(pcap(records(1)))
    (tmp_path / "z.pcap").write_bytes(pcap(records(1)))
    done = run("zbufd", "replay", tmp_path / file, tmp_path / "z.pcap")
    assert re.match(rf"zbufd: {re.escape(expected)} ready in ", done.stderr)
    assert done.returncode == 0


def test_replay_begins_once_enough_readers_are_there(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "2")
    with connect(producer_name) as first:
        assert first.next_buffer(timeout=0.15) is None  # longer than the read timeout, which would assign packets
        assert first.stats().offered == 0
        with connect(producer_name) as second:
            assert take_all(first) == list(range(COUNT))
            assert take_all(second) == list(range(COUNT))
    assert end(replay).returncode == 0


def test_buffer_size_is_that_of_readers_who_do_not_say(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    replay = start_replay(
        commands, producer_name, numbered_pcap, "--buffer-size", "64k", "--wait-readers", "2", "--json"
    )
    first, second = connect(producer_name), connect(producer_name, buffer_size=2 * PAGE)
    with first, second:
        for _ in zip(first.buffers(), second.buffers(), strict=False):
            pass
    sizes = [one["settings"]["buffer_bytes"] for one in json.loads(end(replay).stdout)["descriptors"]]
    assert sorted(sizes) == [2 * PAGE, 64 << 10]


def test_replay_that_is_not_lossless_drops_what_a_slow_reader_has_no_room_for(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "2", "--linger", "0", "--json")
    with connect(producer_name, buffer_size=PAGE) as reader, Connection(producer_name) as starter:
        _, fds = starter.request(control.Connect(), descriptors=3)  # the second reader, which reads nothing
        for fd in fds:
            os.close(fd)
        done = end(replay)
        assert take_all(reader) == list(range(86))
    assert told(done.stderr) == []  # nobody was waited for, so that nobody was too slow
    ledger, _ = json.loads(done.stdout)["descriptors"]
    assert (ledger["received"], ledger["buffered"], ledger["dropped"]) == (COUNT, 86, COUNT - 86)


@pytest.mark.slow
def test_scapy_engine_gives_the_same_packets(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    options = ["--engine", "scapy", "--loop", "2", "--wait-readers", "1", "--lossless", "--json"]
    replay = start_replay(commands, producer_name, numbered_pcap, *options)
    with connect(producer_name) as reader:
        found = [(bytes(packet), packet.time_ns, packet.wirelen) for packet in reader]
    assert found == [(one.data, one.time_ns, one.wirelen) for one in again(records(COUNT), 2)]
    done = end(replay)
    assert (done.returncode, told(done.stderr), json.loads(done.stdout)["packets"]) == (0, [], 2 * COUNT)


def test_standard_input_is_a_file_called_stdin(commands: Commands, numbered_pcap: Path) -> None:
    with numbered_pcap.open("rb") as file:
        replay = commands.start("zbufd", "replay", "-", "--wait-readers", "1", stdin=file)
        line = wait_line(replay.stderr, "ready in")
        assert line.startswith("zbufd: stdin ready in")
        assert received_by(connect("stdin")) == list(range(COUNT))
    assert end(replay).returncode == 0


def test_file_beyond_the_preload_limit_is_streamed_and_looped(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    options = ["--preload-limit", "1k", "--loop", "2", "--wait-readers", "1", "--lossless", "--json"]
    replay = start_replay(commands, producer_name, numbered_pcap, *options)
    assert received_by(connect(producer_name)) == 2 * list(range(COUNT))
    assert json.loads(end(replay).stdout)["packets"] == 2 * COUNT


# ---- progress -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: our end, and that of the command."""
    ours, theirs = os.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def wait_text(fd: int, pattern: str) -> str:
    """Wait until a terminal shows something."""
    shown = b""
    while select.select([fd], [], [], LIMIT_S)[0]:
        shown += os.read(fd, 4096)
        if re.search(pattern, shown.decode(errors="replace")):
            return shown.decode(errors="replace")
    raise AssertionError(f"{pattern!r} is not in {shown!r}")


def test_progress_is_shown_on_a_terminal(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    with terminal() as (ours, theirs):
        options = ["--name", producer_name, "--loop", "0", "--wait-readers", "1"]
        replay = commands.start(
            "zbufd", "replay", numbered_pcap, *options, stderr=theirs, env=os.environ | {"TERM": "xterm"}
        )
        wait_text(ours, f"{re.escape(producer_name)}: waiting for 1 readers?")
        with connect(producer_name):
            wait_text(ours, rf"{re.escape(producer_name)}: [\d,]+ packets, [\d,]+ packets/s")
        replay.send_signal(signal.SIGINT)
        assert replay.wait(LIMIT_S) == 0


def test_no_progress_is_shown_off_a_terminal(commands: Commands, producer_name: str, numbered_pcap: Path) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--loop", "0")
    with connect(producer_name) as reader:
        first = reader.next_buffer(LIMIT_S)
        assert first is not None
        assert first.packets
    replay.send_signal(signal.SIGINT)
    done = end(replay)
    assert told(done.stderr) == []
    assert "\x1b" not in done.stdout + done.stderr
