"""zbuf dump beside zbufd replay: what its files have in them, and when it ends."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.captures import Record, pcap, read_capture
from support.commands import Commands, command, end, error_of, run, tcpdump, told
from support.processes import LIMIT_S
from support.replays import (
    COUNT,
    PAGE,
    adds_up,
    numbers_in,
    records,
    replay_and_dump,
    start_dump,
    start_replay,
    wait_for_readers,
    wait_until_some_are_delivered,
)

from zbuf.consumer import connect

pytestmark = pytest.mark.usefixtures("run_dir")


@pytest.mark.parametrize("options", [[], ["--join", "ids"], ["--immediate-mode"]], ids=["private", "join", "immediate"])
def test_dump_writes_a_file_with_every_packet_and_ends_with_the_producer(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out.pcapng"
    replay, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", out, *options)
    assert (replay.returncode, dump.returncode) == (0, 0)
    assert read_capture(out.read_bytes()).records == records(COUNT)
    assert tcpdump(out) == tcpdump(numbered_pcap)
    assert len(tcpdump(out)) == COUNT
    assert dump.stdout == ""
    assert told(dump.stderr) == [
        f"{COUNT} packets captured",
        f"{COUNT} packets received by filter",
        "0 packets dropped by zbuf",
    ]


def test_dump_to_standard_output_is_the_file(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("wb") as out:
        dump = start_dump(commands, producer_name, "-w", "-", stdout=out)
        replay = commands.start("zbufd", "replay", numbered_pcap, "--name", producer_name, "--wait-readers", "1")
        assert (end(dump).returncode, end(replay).returncode) == (0, 0)
    assert read_capture((tmp_path / "out").read_bytes()).records == records(COUNT)


def test_count_ends_the_dump_after_exactly_so_many_packets(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", out, "-c", "7")
    assert (replay.returncode, dump.returncode) == (0, 0)
    assert numbers_in(out) == list(range(7))
    assert told(dump.stderr)[0] == "7 packets captured"
    (ledger,) = json.loads(replay.stdout)["descriptors"]
    assert adds_up(ledger)


def test_count_that_ends_in_a_later_buffer_is_exact_too(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", out, "-c", "200", "--buffer-size", "4k")
    assert dump.returncode == 0
    assert numbers_in(out) == list(range(200))


def test_snapshot_length_cuts_packets_and_keeps_their_length_on_the_wire(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", out, "-s", "20")
    assert "snapshot length 20 bytes" in dump.stderr
    assert read_capture(out.read_bytes()).records == [Record(one.data[:20], one.time_ns, 60) for one in records(COUNT)]
    assert json.loads(replay.stdout)["descriptors"][0]["truncated"] == COUNT


def test_snapshot_length_of_zero_is_the_largest_as_in_tcpdump(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    _, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", tmp_path / "out", "-s", "0")
    assert "snapshot length 262144 bytes" in dump.stderr
    assert len(numbers_in(tmp_path / "out")) == COUNT


@pytest.mark.parametrize("words", [["ether[0] = 3"], ["ether[0]", "=", "3"]], ids=["one-argument", "several"])
def test_filter_of_the_command_line_chooses_packets(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path, words: list[str]
) -> None:
    replay, dump = replay_and_dump(commands, producer_name, numbered_pcap, "-w", tmp_path / "out", *words)
    expected = list(range(3, COUNT, 256))
    assert numbers_in(tmp_path / "out") == expected
    assert told(dump.stderr)[0] == f"{len(expected)} packets captured"
    (ledger,) = json.loads(replay.stdout)["descriptors"]
    assert (ledger["received"], ledger["accepted"]) == (COUNT, len(expected))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["NAME"], "no producer 'NAME' runs"),
        (["a/b"], "producer name 'a/b'"),
        (["NAME", "--join", "a/b"], "group name 'a/b'"),
        (["NAME", "--buffer-size", "2G"], "buffer"),
    ],
)
def test_dump_complains_of_what_it_can_not_connect_to(
    producer_name: str, run_dir: Path, words: list[str], complaint: str
) -> None:
    del run_dir
    words = [word.replace("NAME", producer_name) for word in words]
    assert complaint.replace("NAME", producer_name) in error_of(run("zbuf", "dump", *words))


@pytest.mark.parametrize("options", [["-w", "out"], ["-n"]], ids=["file", "lines"])
def test_dump_imports_nothing_that_it_has_no_use_for(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path, options: list[str]
) -> None:
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    dump = start_dump(commands, producer_name, "-c", "1", *options, cwd=tmp_path, env=environment)
    commands.start("zbufd", "replay", numbered_pcap, "--name", producer_name, "--wait-readers", "1", "--lossless")
    done = end(dump)
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "zbuf.consumer.tools.dump.target" in imported
    heavy = {"asyncio", "numpy", "prometheus_client", "pydantic", "rich", "scapy", "scapy.all", "tempfile", "zoneinfo"}
    assert not imported & heavy


def test_dump_says_that_the_producer_died_and_has_everything(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay = start_replay(commands, producer_name, numbered_pcap, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", out)
    wait_for_readers(producer_name, 1)
    wait_until_some_are_delivered(producer_name)
    replay.kill()
    done = end(dump)
    assert done.returncode == 1
    found = numbers_in(out)
    assert found == [(found[0] + number) % COUNT for number in range(len(found))]
    counts, line = told(done.stderr)[:-1], told(done.stderr)[-1]
    assert (len(counts), counts[0]) == (3, f"{len(found)} packets captured")
    assert line == f"zbuf: {producer_name} died; everything that it had appended is here"


def test_producer_that_does_not_come_in_time_is_an_error(producer_name: str) -> None:
    line = error_of(run("zbuf", "dump", producer_name, "--wait-producer", "0.01"))
    assert line.startswith(f"zbuf: no producer '{producer_name}' runs in ")


def test_two_dumps_that_join_have_both_all_packets(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    dumps = [start_dump(commands, producer_name, "--join", "g", "-w", tmp_path / one) for one in ("a", "b")]
    replay = commands.start(
        "zbufd", "replay", numbered_pcap, "--name", producer_name, "--wait-readers", "2", "--lossless", "--json"
    )  # fmt: skip
    assert [end(one).returncode for one in dumps] == [0, 0]
    (ledger,) = json.loads(end(replay).stdout)["descriptors"]
    assert (ledger["join"], ledger["delivered"]) == ("g", COUNT)
    for out in ("a", "b"):
        assert numbers_in(tmp_path / out) == list(range(COUNT))


def test_file_has_the_ledger_of_several_files_as_one_capture(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.pcap").write_bytes(pcap(records(5)))
    dump = start_dump(commands, producer_name, "-w", tmp_path / "out")
    replay = commands.start(
        "zbufd", "replay", numbered_pcap, tmp_path / "more.pcap", "--name", producer_name, "--wait-readers", "1"
    )  # fmt: skip
    assert (end(replay).returncode, end(dump).returncode) == (0, 0)
    found = read_capture((tmp_path / "out").read_bytes())
    assert found.names == ["lab.pcap", "more.pcap"]
    assert [one.interface for one in found.records] == [0] * COUNT + [1] * 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_dump_makes_one_write_for_each_buffer(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path
) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "2", "--lossless")
    with connect(producer_name, join="g", buffer_size=PAGE) as reader:
        line = command("zbuf", "dump", producer_name, "--join", "g", "-w", out)
        dump = subprocess.Popen(["strace", "-f", "-e", "trace=write", "-P", out, "-o", trace, *line])
        try:
            buffers = sum(1 for _ in reader.buffers())
            assert dump.wait(LIMIT_S) == 0
        finally:
            dump.kill()
            dump.wait()
    assert end(replay).returncode == 0
    writes = re.findall(r"write\(.* = (\d+)$", trace.read_text(), re.MULTILINE)
    assert buffers >= 24
    assert len(writes) == 1 + buffers + 1  # the prologue, the buffers, the statistics
    assert sum(map(int, writes)) == out.stat().st_size
