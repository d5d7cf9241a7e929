"""The sweep of a consumer of known speed, on a machine that is busy with something else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.captures import Record, pcap
from support.commands import run
from support.processes import numbered

SPEED = 20_000
CONSUMER = """
import sys, time
from zbuf.consumer import connect
name, speed = sys.argv[1], float(sys.argv[2])
with connect(name, timeout_ms=10, buffer_size=256 << 10) as reader:
    done = 0.0  # the moment up to which packets keep this consumer busy
    for buffer in reader.buffers():
        done = max(done, time.monotonic() - 0.1) + buffer.packets / speed  # woken late, it catches up
        while (left := done - time.monotonic()) > 0:
            time.sleep(left)
"""


@pytest.fixture
def busy() -> Iterator[None]:
    """Something else that wants a processor all the time."""
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    with spinning:
        yield
        spinning.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("run_dir", "busy")
def test_a_sweep_finds_the_speed_of_a_consumer_within_3_percent_on_a_busy_machine(
    producer_name: str, tmp_path: Path
) -> None:
    capture, consumer = tmp_path / "lab.pcap", tmp_path / "consumer.py"
    capture.write_bytes(pcap([Record(numbered(number), number, 60) for number in range(1000)]))
    consumer.write_text(CONSUMER)
    command = f"exec {sys.executable} {consumer} {{name}} {SPEED}"
    options = ["--consumer", command, "--trial", "5", "--warm-up", "1", "--tries", "1", "--json"]
    done = run("zbufd", "sweep", capture, "--name", producer_name, *options, timeout=500)
    assert done.returncode == 0, done.stderr
    ndr = json.loads(done.stdout)["ndr"]
    assert ndr["tries_pps"] == pytest.approx([SPEED], rel=0.03)
    assert ndr["uncertainty_pps"] <= 0.03 * SPEED
    assert ndr["pps"] % 100 == 0  # no digits that the uncertainty denies
