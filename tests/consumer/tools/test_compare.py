"""zbuf compare: which of two reports is better, and what is no report."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import error_of, run

from zbuf.consumer.tools.compare import rows_of


def sweep_report(low: float, high: float) -> dict[str, Any]:
    about = (high - low) / 2
    ndr = {"pps": low + about, "uncertainty_pps": about, "lowest_pps": low, "highest_pps": high}
    return {"report": "sweep", "ndr": ndr, "pdr": None, "trials": [1, 2]}


def replay_report(lost: int, lags: tuple[float, float]) -> dict[str, Any]:
    seconds = [{"offered": 100, "seconds": 1.0, "lag_p99_us": lag, "lag_max_us": lag} for lag in lags]
    pacing = {"behind": 0, "lag_us": {"p99": max(lags)}}
    return {
        "report": "replay",
        "packets": 200,
        "packets_per_second": 100.0,
        "lost": lost,
        "over_time": seconds,
        "pacing": pacing,
        "latency_us": {"p50": 1.0},
    }


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [((90, 110), (120, 130), "second"), ((120, 130), (90, 110), "first"), ((90, 110), (105, 130), "same")],
)
def test_a_rate_is_better_only_beyond_spread(first: Any, second: Any, better: str) -> None:
    row = rows_of(sweep_report(*first), sweep_report(*second))[0]
    assert (row.name, row.better) == ("NDR packets/s", better)
    assert row.ratio == pytest.approx(row.second / row.first)


def test_less_loss_and_less_lag_are_better_and_what_was_measured_once_is_not_judged() -> None:
    rows = {one.name: one for one in rows_of(replay_report(5, (30, 40)), replay_report(0, (10, 20)))}
    assert (rows["lost"].better, rows["lost"].ratio) == ("second", 0)
    assert (rows["late"].better, rows["late"].ratio) == ("same", None)
    assert rows["lag p99 µs"].better == "second"
    assert rows["latency p50 µs"].better == "-"
    assert rows["packets/s"].better == "-"  # as asked


def test_two_reports_are_printed_side_by_side(tmp_path: Path) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, report in zip(paths, (sweep_report(90, 110), sweep_report(180, 220)), strict=True):
        path.write_text(json.dumps(report))
    done = run("zbuf", "compare", *paths)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["NDR", "packets/s", "100.0", "200.0", "2.000", str(paths[1])]
    assert json.loads(run("zbuf", "compare", *paths, "--json").stdout)[0]["better"] == "second"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "is not a report: write one with zbufd replay --json"),
        ("[]", "is not a report"),
        ('{"report": "sweep"}', "is a report of another version of zbuf, or a part of one: make it again"),
        (json.dumps(replay_report(0, (1, 2))), "of zbufd sweep: give two reports of one command"),
    ],
)
def test_what_can_not_be_compared_is_named(tmp_path: Path, text: str, said: str) -> None:
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text(text)
    good.write_text(json.dumps(sweep_report(1, 2)))
    line = error_of(run("zbuf", "compare", bad, good))
    assert str(bad) in line
    assert said in line


def test_a_report_that_is_not_there_is_named(tmp_path: Path) -> None:
    line = error_of(run("zbuf", "compare", tmp_path / "x.json", tmp_path / "y.json"))
    assert line == f"zbuf: {tmp_path}/x.json: No such file or directory: give the file of a report"
