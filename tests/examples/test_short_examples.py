"""The short examples: iterate.py, sizes.py, rates.py, publish.py; and the demo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.captures import Record, read_capture
from support.examples import EXAMPLES, Start, outcome, publish

from zbuf.producer import Producer


def test_iterate_counts_what_the_filter_passes(producer: Producer, capture: list[Record], example: Start) -> None:
    process = example("iterate.py", producer.name, "arp")
    publish(producer, capture)
    assert outcome(process) == ("2 packets, 84 bytes; the producer closed\n", "", 0)


def test_sizes_counts_every_packet(producer: Producer, capture: list[Record], example: Start) -> None:
    process = example("sizes.py", producer.name)
    publish(producer, capture)
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    assert sum(int(line.rsplit(":", 1)[1]) for line in output.splitlines()) == len(capture)


def test_rates_counts_every_packet(producer: Producer, capture: list[Record], example: Start) -> None:
    process = example("rates.py", producer.name, "0.1")
    publish(producer, capture)
    output, errors, status = outcome(process)
    *lines, last = output.splitlines()
    assert (last, errors, status) == ("the producer closed", "", 0)
    assert sum(int(line.split()[0]) for line in lines) == len(capture)
    assert all(line.endswith(", 0 lost") for line in lines)


def test_rates_ends_quietly_on_sigterm(producer: Producer, example: Start) -> None:
    process = example("rates.py", producer.name, "0.1")
    assert process.stdout is not None
    assert process.stdout.readline() == "0 packets, 0 bytes, 0 packets/s, 0 lost\n"
    process.terminate()
    _, errors, status = outcome(process)
    assert (errors, status) == ("", 0)


def test_publish_reaches_a_dump(producer_name: str, run_dir: Path, tmp_path: Path, example: Start) -> None:
    del run_dir
    process = example("publish.py", producer_name, 5000)
    written = tmp_path / "numbers.pcapng"
    zbuf = str(Path(sys.executable).parent / "zbuf")
    dump = [zbuf, "dump", "--wait-producer", "30", "-w", str(written), producer_name]
    subprocess.run(dump, check=True, capture_output=True, timeout=60)
    assert outcome(process) == ("5000 packets published\n", "", 0)
    records = read_capture(written.read_bytes()).records
    assert [int.from_bytes(one.data[14:], "big") for one in records] == list(range(5000))


@pytest.mark.slow
def test_the_demo_finds_every_byte(run_dir: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, str(EXAMPLES / "demo.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "holds byte for byte what went in" in done.stdout
    assert done.stdout.count("adds up") == 3
    assert "0 dropped" in done.stdout
    assert list(run_dir.iterdir()) == []
