"""The small programs that a Python user writes first: each runs as it stands, and its output is checked."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from support.captures import Record, read_capture
from support.examples import EXAMPLES, Start, outcome, publish

from zbuf.producer import Producer


@pytest.fixture
def file(capture: list[Record], tmp_path: Path) -> Path:
    """The capture, as make_capture.py writes it."""
    path = tmp_path / "mix.pcap"
    subprocess.run([sys.executable, EXAMPLES / "make_capture.py", path], check=True, timeout=60)
    assert len(read_capture(path.read_bytes()).records) == len(capture)
    return path


def milliseconds(capture: list[Record]) -> Counter[int]:
    return Counter(one.time_ns // 1_000_000 for one in capture)


def test_talkers_ranks_hosts_by_what_they_sent(file: Path, capture: list[Record], example: Start) -> None:
    output, errors, status = outcome(example("talkers.py", file))
    assert (errors, status) == ("", 0)
    sent = Counter[str]()
    for one in capture:
        if one.data[12:14] == b"\x08\x00":
            sent[".".join(map(str, one.data[26:30]))] += one.wirelen
    ranked = [(line.split()[0], int(line.split()[1].replace(",", ""))) for line in output.splitlines()]
    assert ranked == sent.most_common(10)


@pytest.mark.slow
def test_workers_digest_every_packet(file: Path, capture: list[Record], example: Start) -> None:
    different = len({one.data for one in capture})
    assert outcome(example("workers.py", file)) == (f"{len(capture)} packets, {different} different ones\n", "", 0)


def test_the_notebook_runs_from_its_first_cell_to_its_last(file: Path, capture: list[Record], example: Start) -> None:
    output, errors, status = outcome(example("notebook.py", file))
    assert (errors, status) == ("", 0)
    lines = output.splitlines()
    assert lines[0].startswith(f"{len(capture)} packets from 20")
    busiest = max(milliseconds(capture).values())
    assert lines[1].endswith(f" {busiest} packets")
    assert lines[4].startswith("<zbuf packet copy: ")
    assert lines[4].endswith("EtherType 0806")
    taken, filtered = (int(word) for word in lines[5].split() if word.isdigit())
    assert taken + filtered == len(capture)


@pytest.mark.slow
def test_the_example_of_tests_passes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    test = EXAMPLES / "test_packets.py"
    done = subprocess.run(
        [*command, str(test)], capture_output=True, text=True, timeout=60, env=os.environ, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_tally_waits_for_its_captures_and_counts_every_packet(
    producer_name: str, run_dir: Path, capture: list[Record], example: Start
) -> None:
    del run_dir
    process = example("tally.py", producer_name)
    with Producer(producer_name, lossless=True) as producer:
        publish(producer, capture)
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    *lines, last = output.splitlines()
    assert last == f"{producer_name}: closed"
    assert sum(int(line.split()[1]) for line in lines) == len(capture)


def test_matching_writes_what_matches(
    producer: Producer, capture: list[Record], example: Start, tmp_path: Path
) -> None:
    process = example("matching.py", producer.name, tmp_path / "arp.pcapng", "arp")
    publish(producer, capture)
    assert outcome(process) == (f"2 packets written to {tmp_path}/arp.pcapng\n", "", 0)
    written = read_capture((tmp_path / "arp.pcapng").read_bytes()).records
    assert [one.data for one in written] == [one.data for one in capture if one.data[12:14] == b"\x08\x06"]


@pytest.mark.slow
def test_sniff_prints_a_line_for_each_packet(file: Path, example: Start) -> None:
    output, errors, status = outcome(example("sniff.py", file, "arp"))
    assert (errors, status) == ("", 0)
    assert len(output.splitlines()) == 2
    assert all("ARP" in line for line in output.splitlines())


def test_bursts_names_each_busy_millisecond_once(producer: Producer, capture: list[Record], example: Start) -> None:
    limit = max(milliseconds(capture).values()) - 1
    process = example("bursts.py", producer.name, limit)
    publish(producer, capture)
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    busy = [count for count in milliseconds(capture).values() if count > limit]
    assert len(output.splitlines()) == len(busy)
