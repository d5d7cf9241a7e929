"""What a load test can fail by: losses, lateness, damage; its report over time; and what CI is told."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.captures import Record, pcap
from support.commands import Commands, end, error_of, run, told
from support.processes import LIMIT_S, numbered, take_all
from support.replays import COUNT, PAGE, records, start_replay

from zbuf.consumer import connect
from zbuf.producer.load.overtime import Counts, intervals, sparkline
from zbuf.producer.load.replay.report import pacing_of
from zbuf.producer.load.schedule import Schedule
from zbuf.producer.sources.pace import Pace

pytestmark = pytest.mark.usefixtures("run_dir")


def cases(path: Path) -> dict[str, Any]:
    """The test cases of a JUnit file by the first words of their names: "passed", "failure" or "skipped"."""
    suite = ElementTree.parse(path).getroot().find("testsuite")  # noqa: S314  (our own file)
    assert suite is not None
    outcome = {one.attrib["name"].split(":")[0]: one[0].tag if len(one) else "passed" for one in suite.iter("testcase")}
    assert int(suite.attrib["tests"]) == len(outcome)
    assert int(suite.attrib["failures"]) == list(outcome.values()).count("failure")
    return outcome


# ---- lateness -------------------------------------------------------------------------------------------------------


def run_of(schedule: Schedule, late_ms: float, late: int, of: int = 1000) -> Pace:
    """A pace of `of` packets, of which the first of each `of // late` are that late."""
    now = [0]
    pace = schedule.pace(lambda: now[0])
    assert pace is not None
    for number in range(of):
        now[0] = number * 10_000_000 + (round(late_ms * 1e6) if late and 0 < number <= late else 0)
        assert pace.hold(1, 60) is not None
    return pace


@pytest.mark.parametrize(
    ("late_ms", "late", "max_lag_ms", "held"),
    [(2, 10, 1, True), (2, 11, 1, False), (2, 540, 1, False), (2, 540, 3, True), (0.6, 11, 0.5, False)],
)
def test_a_rate_is_held_only_if_packets_are_on_time(late_ms: float, late: int, max_lag_ms: float, held: bool) -> None:
    schedule = Schedule.at(100, max_lag_ms=max_lag_ms)
    found = pacing_of(schedule, run_of(schedule, late_ms, late), waits=0)
    assert found.deviation == pytest.approx(0, abs=1e-6)
    assert found.held is held
    assert (found.reason is None) is held
    if not held:
        assert f"{late / 10:.3g} % of the packets were over {max_lag_ms:g} ms late" in str(found.reason)


def test_a_rate_that_was_not_held_is_the_first_line_and_fails_if_max_lag_was_given(
    numbered_pcap: Path, tmp_path: Path
) -> None:
    """No machine offers each packet within a nanosecond."""
    junit = tmp_path / "outcome.xml"
    options = ["--pps", "5000", "--max-lag", "0.000001", "--junit", str(junit)]
    done = run("zbufd", "replay", numbered_pcap, *options)
    assert done.returncode == 1
    assert done.stdout.startswith("not held: ")
    assert "% of the packets were over 1e-06 ms late" in done.stdout
    assert told(done.stderr)[-1].startswith("zbufd: failed, since ")
    assert cases(junit) == {"input": "passed", "loss": "skipped", "rate": "failure"}


# ---- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lossless", [True, False])
def test_a_replay_fails_if_a_reader_lost_packets(
    commands: Commands, producer_name: str, numbered_pcap: Path, tmp_path: Path, lossless: bool
) -> None:
    junit = tmp_path / "outcome.xml"
    options = ["--wait-readers", "1", "--fail-if-lost", "--junit", str(junit), "--json"]
    options += ["--lossless"] if lossless else ["--linger", "0"]
    replay = start_replay(commands, producer_name, numbered_pcap, *options)
    with connect(producer_name, buffer_size=PAGE) as reader:
        if lossless:
            assert len(take_all(reader)) == COUNT
        done = end(replay)
    report = json.loads(done.stdout)
    assert (done.returncode, report["lost"]) == ((0, 0) if lossless else (1, COUNT)), done.stderr
    assert cases(junit) == {"input": "passed", "loss": "passed" if lossless else "failure", "rate": "skipped"}


def test_a_replay_that_nobody_read_fails_if_loss_matters(numbered_pcap: Path) -> None:
    done = run("zbufd", "replay", numbered_pcap, "--fail-if-lost")
    assert (done.returncode, told(done.stderr)) == (1, ["zbufd: failed, since no reader was connected"])
    assert "no reader was connected" in done.stdout


def test_a_damaged_file_fails_in_junit(numbered_pcap: Path, tmp_path: Path) -> None:
    numbered_pcap.write_bytes(numbered_pcap.read_bytes()[:-7])
    junit = tmp_path / "outcome.xml"
    assert run("zbufd", "replay", numbered_pcap, "--junit", junit).returncode == 1
    assert cases(junit)["input"] == "failure"


def test_a_junit_file_that_can_not_be_written_is_told_before_the_replay(numbered_pcap: Path) -> None:
    line = error_of(run("zbufd", "replay", numbered_pcap, "--junit", "/nowhere/x.xml"))
    assert line.startswith("zbufd: --junit /nowhere/x.xml: there is no directory /nowhere")


# ---- limit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "more"), [(1, []), (2500, []), (7, ["--pps", "1000"]), (1500, ["--loop", "0"])])
def test_a_limit_is_how_many_packets_are_offered_at_most(numbered_pcap: Path, limit: int, more: list[str]) -> None:
    done = run("zbufd", "replay", numbered_pcap, "--limit", str(limit), *more, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["packets"] == min(limit, limit if "--loop" in more else COUNT)


def test_a_limit_ends_a_pipe_that_goes_on(commands: Commands, producer_name: str) -> None:
    replay = commands.start("zbufd", "replay", "-", "--name", producer_name, "--limit", "10", stdin=subprocess.PIPE)
    assert replay.stdin is not None
    os.write(replay.stdin.fileno(), pcap(records(10)))
    assert replay.wait(LIMIT_S) == 0  # with its input open


# ---- over time ------------------------------------------------------------------------------------------------------


def test_intervals_are_the_differences_of_what_was_counted() -> None:
    found = [
        (10.0, Counts(0, 0, 0, {})),
        (11.0, Counts(100, 0, 0, {1000: 99, 5_000: 1})),
        (13.0, Counts(300, 20, 5, {1000: 100, 5_000: 1, 2_000_000: 199})),
    ]
    first, second = intervals(found)
    assert (first.until_s, first.offered, first.dropped, first.lag_p99_us, first.lag_max_us) == (1, 100, 0, 1, 5)
    assert (second.until_s, second.seconds, second.offered, second.dropped, second.late) == (3, 2, 200, 20, 5)
    assert (second.lag_p99_us, second.lag_max_us) == (2000, 2000)
    assert intervals(found[:1]) == []


def test_a_sparkline_shows_the_highest_of_neighbours_and_fits_a_terminal() -> None:
    assert sparkline([0, 1, 2, 7]) == "▁▂▃█"
    assert sparkline([0, 0]) == "▁▁"
    assert len(sparkline([1.0] * 1000)) <= 60
    assert sparkline([0.0] * 119 + [9.0]).endswith("█")


@pytest.mark.slow
def test_the_report_has_drops_and_lag_of_each_second(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    options = ["--pps", "1000", "--duration", "2.6", "--wait-readers", "1", "--linger", "0", "--json"]
    replay = start_replay(commands, producer_name, numbered_pcap, *options)
    with connect(producer_name, buffer_size=PAGE):
        report = json.loads(end(replay).stdout)
    seconds = report["over_time"]
    assert len(seconds) >= 2
    assert sum(one["offered"] for one in seconds) == report["packets"]
    assert sum(one["dropped"] for one in seconds) == report["descriptors"][0]["dropped"] > 0
    assert sum(one["late"] for one in seconds) == report["pacing"]["behind"]


# ---- wrong words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-lag", "0"], "'--max-lag': '0' is not a number of milliseconds: give more than 0"),
        (["--max-lag", "nan"], "'--max-lag': 'nan' is not a number of milliseconds"),
        (["--limit", "0"], "'--limit': '0' is not a whole number, 1 or more"),
        (["--limit", "many"], "'--limit': 'many' is not a whole number"),
        (["--pps", "fast"], "'fast' is not a rate: write a number"),
        (["--ramp", "1:2"], "'--ramp': '1:2' is not a ramp: write FROM:TO:SECONDS"),
        (["--duration", "0"], "'--duration': '0': it must be more than 0 seconds"),
        (["--pps", "1", "--mbps", "1"], "--pps and --mbps are two speeds: give one"),
        (["--buffer-size", "3x"], "--buffer-size '3x' is not a size: write bytes"),
    ],
)
def test_a_wrong_word_is_named_in_one_line(numbered_pcap: Path, options: list[str], said: str) -> None:
    assert said in error_of(run("zbufd", "replay", numbered_pcap, *options), 2)


def test_two_interfaces_take_their_real_time_and_two_files_theirs_each(tmp_path: Path) -> None:
    """Two seconds of packets, whose stamps step back by turns; the second file was recorded a day later."""
    second = 1_000_000_000
    for name, start in (("a", 10**18), ("b", 10**18 + 86_400 * second)):
        stamps = [start + number * second // 10 - (number % 2) * second // 2 for number in range(20)]
        path = tmp_path / f"{name}.pcap"
        path.write_bytes(pcap([Record(numbered(number), stamp, 60) for number, stamp in enumerate(stamps)]))
    done = run("zbufd", "replay", tmp_path / "a.pcap", tmp_path / "b.pcap", "-x", "10", "--json")
    assert json.loads(done.stdout)["seconds"] == pytest.approx(2 * 0.18, rel=0.5)
