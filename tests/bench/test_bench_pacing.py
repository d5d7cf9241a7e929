"""How the benchmark of paced replay finds the highest rate, and how late packets are."""

import json
import subprocess
import sys
from typing import Any

import pytest
from support.project import ROOT

_HIGHEST = """
from bench.pacing import Trial, highest_held
asked = []
def trial(pps):
    asked.append(pps)
    return Trial(min(pps, 8e6), pps <= LIMIT)
result = [highest_held(trial, 8).pps, asked]
"""

_ERRORS = """
import numpy
from dataclasses import asdict
from bench.pacing import errors_of
from bench.tcpreplay import Arrivals
numbers = numpy.array([0, 1, 2, 4, 5])                      # one is lost
times_ns = 10**18 + numbers * 10_000 + numpy.array([7_000, 5_000, 5_000, 5_000, 9_000])
result = asdict(errors_of(Arrivals(numbers, times_ns), 6))
"""

_REPLAY = """
import tempfile
from dataclasses import asdict
from pathlib import Path
from bench.captures import numbered
from bench.pacing import replay_errors

with tempfile.TemporaryDirectory() as directory:
    result = asdict(replay_errors(numbered(Path(directory)), 20_000))
"""


def result_of(script: str) -> Any:
    """What a script that imports the benchmark, from the top of the repository, leaves in `result`."""
    script += "\nimport json; print(json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1e5, 3e6, 7.9e6])
def test_the_highest_rate_held_is_found_within_a_256th_of_the_machine_s(limit: float) -> None:
    highest, asked = result_of(_HIGHEST.replace("LIMIT", str(limit)))
    assert limit - 8e6 / 256 <= highest <= limit
    assert len(asked) == 9
    assert asked[0] > 8e6


@pytest.mark.slow
def test_the_highest_rate_is_zero_if_none_was_held() -> None:
    assert result_of(_HIGHEST.replace("LIMIT", "0"))[0] == 0


@pytest.mark.slow
def test_packets_are_as_late_as_their_numbers_say_even_after_a_lost_one() -> None:
    found = result_of(_ERRORS)
    assert found["p50"] == 0
    assert found["max"] == 4
    assert 2 < found["p99"] <= 4
    assert found["lost"] == 1


@pytest.mark.slow
def test_a_paced_replay_s_packets_are_found_by_their_numbers_and_stamps() -> None:
    found = result_of(_REPLAY)
    assert 0 <= found["lost"] < 20_000  # on a busy machine the reader may lose some, but never all
    assert 0 <= found["p50"] <= found["p99"] <= found["max"]
    assert found["reported_p99"] > 0
