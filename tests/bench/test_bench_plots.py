"""The plots of a benchmark run, from its JSON file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT

_RATES = {"packets_per_second": 2e7, "bytes_per_second": 8e9, "ns": 50.0, "producer_ns": 40.0, "readers_ns": 30.0}
_POINT = {"medians": _RATES, "spreads": {name: [one * 0.9, one * 1.1] for name, one in _RATES.items()}, "rounds": []}


def row(**data: object) -> dict[str, object]:
    return {"measure": "a measure", "peer": "a peer 1.0 M/s", "data": data}


def line(series: str, what: str, *values: float) -> list[dict[str, object]]:
    return [row(series=series, fit=what, term=str(value), value=value) for value in values]


_MEASURES = {
    "peers": [row(ratio=2.0), row(ratio=0.5, peer="another")],
    "buffers": [row(series="buffers", buffer_bytes=size, **_POINT) for size in (1 << 16, 1 << 20)],
    "sizes": [
        *(row(series="sizes", packet_bytes=one, mixed=one == 395, memcpy_bytes_per_second=1e10, **_POINT)
          for one in (64, 1514, 395)),
        *line("sizes", "ns", 10.0, 0.1),
    ],
    "readers": [
        *(row(series="readers", readers=count, joined=joined, **_POINT)
          for count in (1, 2) for joined in (False, True)),
        *line("readers", "producer_ns", 40.0, 30.0, 1.0),
        *line("readers", "readers_ns", 20.0, 10.0, 20.0),
    ],
}  # fmt: skip


def draw(file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.plots", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["buffers"], list(_MEASURES)])
def test_a_run_is_drawn_from_its_file_in_a_plot_for_each_thing_measured(tmp_path: Path, names: list[str]) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"measures": [one for name in names for one in _MEASURES[name]]}))
    done = draw(file)
    assert done.returncode == 0, done.stderr
    drawn = {tmp_path / f"run-{name}.png" for name in names}
    assert set(tmp_path.glob("*.png")) == drawn == set(map(Path, done.stdout.split()))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["not JSON", "[]", "{}", '{"measures": 1}', '{"measures": [{"data": {"ratio": 1}}]}']
)
def test_a_file_that_is_not_a_run_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    done = draw(file)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(file) in done.stderr
    assert not list(tmp_path.glob("*.png"))
