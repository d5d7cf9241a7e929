"""zbuf measure: how latencies are counted, and the command as its users have it."""

import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.captures import Record, pcap
from support.commands import Commands, run, wait_line
from support.processes import LIMIT_S, Lab, numbered

from zbuf.consumer.tools.measure.latencies import LEAST_NS, MOST_NS, Latencies
from zbuf.consumer.tools.measure.summary import percentiles
from zbuf.shared import control

pytestmark = pytest.mark.usefixtures("run_dir")

Process = subprocess.Popen[str]

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
WAITS = pytest.mark.parametrize("wait", ["sleep", "spin"])
_DAY_NS = 86_400_000_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


# ---- counting -------------------------------------------------------------------------------------------------------


def counted(*arrays: list[int]) -> Latencies:
    latencies = Latencies()
    for values in arrays:
        latencies.add(numpy.array(values, numpy.int64))
    return latencies


def test_mean_and_longest_latency_are_exact() -> None:
    chance = random.Random(1)
    values = [int(10 ** chance.uniform(0, 12.5)) for _ in range(1000)]
    latencies = counted(values[:100], values[100:], [])
    assert latencies.packets == len(values)
    assert latencies.histogram.max == max(values)
    assert latencies.mean_ns == sum(values) / len(values)


def test_latency_out_of_range_counts_as_the_nearest_that_is_in_it() -> None:
    latencies = counted([-_DAY_NS, -1, 0, 1, MOST_NS, MOST_NS + 1, _DAY_NS])
    (least, few), (most, many) = latencies.histogram.buckets()
    assert (least, few, many) == (LEAST_NS, 4, 3)
    assert most * 0.999 <= MOST_NS <= most
    assert (latencies.packets, latencies.later_than_now, latencies.histogram.max) == (7, 2, MOST_NS)


def test_percentiles_come_closer_together_and_end_at_a_hundred() -> None:
    assert list(percentiles(4)) == [0, 10, 20, 30, 40, 50, 55, 60, 65, 70, 75, 77.5, 80, 82.5, 85, 100]
    assert list(percentiles(1)) == [0, 10, 20, 30, 40, 100]


# ---- the command ----------------------------------------------------------------------------------------------------


def start_measure(commands: Commands, lab: Lab, *options: str | Path) -> Process:
    """zbuf measure, connected."""
    process = commands.start("zbuf", "measure", lab.name, *options)
    lab.wait_descriptors(1)
    return process


def append(lab: Lab, count: int, *, shift_ms: float = 0.0) -> None:
    """Append packets of 60 bytes, stamped with the time at which they are, shifted."""
    lab.process.do(
        "import time\nfor number in range(count): producer.append(numbered(number), time_ns=time.time_ns() + shift_ns)",
        count=count,
        shift_ns=int(shift_ms * 1e6),
    )


def wait_delivered(lab: Lab, count: int) -> None:
    """Wait until the reader has given back as many packets."""
    limit = time.monotonic() + LIMIT_S
    while lab.descriptors()[0].delivered < count:
        assert time.monotonic() < limit, "the reader does not take what came"


def report_of(process: Process) -> dict[str, Any]:
    """The report in JSON of a measure that ended well, and said nothing but what it began with."""
    out, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, error
    assert re.fullmatch(r"zbuf: measuring \S+ for \S+ s at most\n", error)
    report: dict[str, Any] = json.loads(out)
    return report


def error_of(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line of error of a measure that failed as it should."""
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("zbuf: measuring ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def end(process: Process) -> "subprocess.CompletedProcess[str]":
    out, error = process.communicate(timeout=LIMIT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


@WAITS
def test_latency_is_the_time_since_the_producers_stamp(commands: Commands, lab: Lab, wait: str) -> None:
    measure = start_measure(commands, lab, "-c", "200", "--json", "--wait", wait)
    append(lab, 200, shift_ms=-5)
    report = report_of(measure)
    assert report["ended_by"] == "count"
    latency_us = report["latency_us"]
    assert 5_000 <= latency_us["p50"] < 1_000_000
    assert report["distribution"][0]["latency_us"] >= 5_000
    ordered = [latency_us[head] for head in ("p50", "p90", "p99", "p99.9", "max")]
    assert ordered == sorted(ordered)
    assert 5_000 <= latency_us["mean"] <= latency_us["max"]


def test_count_ends_it_in_the_middle_of_a_buffer(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "--count", "30", "--json", "--no-immediate-mode")
    append(lab, 100)
    report = report_of(measure)
    assert (report["ended_by"], report["packets"], report["bytes"]) == ("count", 30, 30 * 60)


@pytest.mark.slow
def test_duration_ends_it(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "-a", "1", "--json")
    while measure.poll() is None:
        append(lab, 1)
    report = report_of(measure)
    assert report["ended_by"] == "duration"
    assert report["packets"] > 0
    assert 1 <= report["seconds"] < LIMIT_S


def test_report_adds_up(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "--json")
    append(lab, 1000)
    wait_delivered(lab, 1000)
    lab.close()
    report = report_of(measure)
    assert report["producer"] == lab.name
    assert (report["ended_by"], report["packets"], report["bytes"]) == ("closed", 1000, 60_000)
    assert report["packets_per_second"] == pytest.approx(1000 / report["seconds"])
    assert report["bytes_per_second"] == pytest.approx(60_000 / report["seconds"])
    ledger = report["ledger"]
    assert (ledger["received"], ledger["delivered"]) == (1000, 1000)
    steps = report["distribution"]
    assert (steps[-1]["percentile"], steps[-1]["packets"]) == (100, 1000)
    assert steps[-1]["latency_us"] == report["latency_us"]["max"]
    for key in ("percentile", "latency_us", "packets"):
        assert [step[key] for step in steps] == sorted(step[key] for step in steps)


def test_packets_that_were_lost_are_counted(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "--json", "--buffer-size", "4096")
    measure.send_signal(signal.SIGSTOP)
    os.waitpid(measure.pid, os.WUNTRACED)
    append(lab, 1000)
    measure.send_signal(signal.SIGCONT)
    (stopped,) = lab.descriptors()
    assert 0 < stopped.dropped < 1000
    wait_delivered(lab, 1000 - stopped.dropped)
    append(lab, 1)  # whose buffer tells what was lost before it
    lab.close()
    report = report_of(measure)
    assert report["packets"] == 1001 - stopped.dropped
    assert report["lost"] == report["ledger"]["dropped"] == stopped.dropped


def test_filter_chooses_what_is_measured(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "-c", "5", "--json", "len", ">=", "100")
    lab.append(10, size=60)
    lab.append(5, size=100)
    report = report_of(measure)
    assert (report["packets"], report["bytes"]) == (5, 500)


def test_table_has_the_numbers(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "-c", "20")
    append(lab, 20, shift_ms=-5)
    out, error = measure.communicate(timeout=LIMIT_S)
    assert measure.returncode == 0, error
    heads, numbers, percentiles, latencies = (re.split(r"  +", line.strip()) for line in out.splitlines())
    assert heads == ["packets", "seconds", "packets/s", "bytes/s", "lost", "dropped by the ledger"]
    assert (numbers[0], numbers[4], numbers[5]) == ("20", "0", "0")
    assert percentiles == ["latency", "p50", "p90", "p99", "p99.9", "max", "mean"]
    assert latencies[0] == "µs"
    assert all(float(latency.replace(",", "")) >= 5_000 for latency in latencies[1:])


def test_producer_that_dies_leaves_the_report_of_what_it_had_appended(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "--json", "--no-immediate-mode")
    append(lab, 10)
    lab.kill()
    done = end(measure)
    assert done.returncode == 1
    assert done.stderr.endswith(f"zbuf: {lab.name} died; everything that it had appended is here\n")
    report = json.loads(done.stdout)
    assert (report["ended_by"], report["packets"]) == ("producer died", 10)


# ---- times that can't be --------------------------------------------------------------------------------------------


def test_packets_with_times_of_a_file_are_refused(commands: Commands, producer_name: str, tmp_path: Path) -> None:
    stamp_ns = time.time_ns() - 12 * _DAY_NS - _DAY_NS // 2
    path = tmp_path / "old.pcap"
    path.write_bytes(pcap([Record(numbered(number), stamp_ns + number, 60) for number in range(5)], nanoseconds=True))
    replay = commands.start("zbufd", "replay", path, "--name", producer_name, "--wait-readers", "1", "--lossless")
    wait_line(replay.stderr, "ready in")
    assert error_of(run("zbuf", "measure", producer_name)) == (
        f"zbuf: packets of '{producer_name}' have the times of a file (the first is 12 days old): "
        "measure a live capture, or a producer that stamps what it appends"
    )


@pytest.mark.parametrize(
    ("shift_minutes", "said"),
    [(-61.5, "61 minutes old"), (-210, "3 hours old"), (210, "3 hours ahead"), (4500, "3 days ahead")],
)
def test_age_of_times_that_can_not_be_is_told(commands: Commands, lab: Lab, shift_minutes: float, said: str) -> None:
    measure = start_measure(commands, lab)
    append(lab, 1, shift_ms=shift_minutes * 60_000)
    assert f"(the first is {said})" in error_of(end(measure))


def test_times_that_are_later_than_now_are_told(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab, "-c", "8", "--json")
    append(lab, 5, shift_ms=600_000)
    append(lab, 3, shift_ms=-1)
    done = end(measure)
    assert done.returncode == 0
    assert done.stderr.endswith(
        "zbuf: 5 packets have a time later than their arrival: the clocks differ; they count as 1 ns\n"
    )
    assert json.loads(done.stdout)["later_than_now"] == 5


def test_no_packets_is_an_error(commands: Commands, lab: Lab) -> None:
    measure = start_measure(commands, lab)
    lab.close()
    line = error_of(end(measure))
    assert re.fullmatch(rf"zbuf: no packets came from '{lab.name}' in \d+\.\d s: zbuf stats {lab.name} tells why", line)


@pytest.mark.parametrize("option", [["-c", "0"], ["-a", "0"], ["-a", "x"], ["--wait", "rest"], ["--buffer-size", "x"]])
def test_option_that_can_not_be_is_a_usage_error(lab: Lab, option: list[str]) -> None:
    done = run("zbuf", "measure", lab.name, *option)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"'{option[1]}'" in done.stderr


# ---- the plot -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_plot_is_a_png(commands: Commands, lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "latency.png"
    measure = start_measure(commands, lab, "-c", "50", "--plot", path)
    append(lab, 50)
    done = end(measure)
    assert done.returncode == 0, done.stderr
    image = path.read_bytes()
    assert image.startswith(_PNG)
    assert image.endswith(b"IEND\xae\x42\x60\x82")
    assert struct.unpack_from(">II", image, 16) == (1000, 600)


@pytest.mark.slow
def test_plot_of_one_packet_is_a_png(commands: Commands, lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "latency.png"
    path.write_bytes(b"an older one, which is longer" * 10_000)
    measure = start_measure(commands, lab, "-c", "1", "--plot", path)
    append(lab, 1)
    done = end(measure)
    assert done.returncode == 0, done.stderr
    image = path.read_bytes()
    assert image.startswith(_PNG)
    assert image.endswith(b"IEND\xae\x42\x60\x82")


@pytest.mark.slow
def test_first_plot_of_a_user_says_nothing_of_fonts(commands: Commands, lab: Lab, tmp_path: Path) -> None:
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    measure = commands.start(
        "zbuf", "measure", lab.name, "-c", "1", "--plot", str(tmp_path / "latency.png"), env=environment
    )
    lab.wait_descriptors(1)
    append(lab, 1)
    done = end(measure)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "font" in line]) == (0, [])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing/latency.png", "No such file or directory"),
        (".", "Is a directory"),
        ("file/latency.png", "Not a directory"),
        ("", "No such file or directory"),
    ],
)
def test_plot_that_can_not_be_written_is_told_before_anything_else(tmp_path: Path, path: str, said: str) -> None:
    (tmp_path / "file").touch()
    done = run("zbuf", "measure", "nobody", "--plot", path, cwd=tmp_path)
    assert error_of(done) == f"zbuf: --plot {path}: {said}"


def test_plot_of_a_measure_that_fails_leaves_no_file_and_an_older_one_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "older").write_bytes(b"older")
    for name in ("new", "older"):
        assert "no producer 'nobody'" in error_of(run("zbuf", "measure", "nobody", "--plot", tmp_path / name))
    assert [one.name for one in tmp_path.iterdir()] == ["older"]
    assert (tmp_path / "older").read_bytes() == b"older"


@pytest.fixture
def without_matplotlib(tmp_path: Path) -> dict[str, str]:
    """An environment in which it can't be imported."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_without_matplotlib_a_plot_is_refused_with_what_to_install(without_matplotlib: dict[str, str]) -> None:
    done = run("zbuf", "measure", "nobody", "--plot", "latency.png", env=without_matplotlib)
    assert error_of(done) == "zbuf: --plot needs matplotlib: pip install 'zbuf[plot]'"


def test_without_matplotlib_everything_else_works(
    commands: Commands, lab: Lab, without_matplotlib: dict[str, str]
) -> None:
    measure = commands.start("zbuf", "measure", lab.name, "-c", "1", "--json", env=without_matplotlib)
    lab.wait_descriptors(1)
    append(lab, 1)
    assert report_of(measure)["packets"] == 1


# ---- signals --------------------------------------------------------------------------------------------------------


@SIGNALS
@WAITS
def test_signal_ends_it_with_the_report_of_what_came_so_far(
    commands: Commands, lab: Lab, number: int, wait: str
) -> None:
    measure = start_measure(commands, lab, "--json", "--wait", wait, "-a", "3600")
    append(lab, 5)
    wait_delivered(lab, 5)
    measure.send_signal(number)
    report = report_of(measure)
    assert report["ended_by"] == "signal"
    assert report["packets"] == 5


@SIGNALS
def test_signal_before_the_first_packet_ends_it(commands: Commands, lab: Lab, number: int) -> None:
    measure = commands.start("zbuf", "measure", lab.name)
    wait_line(measure.stderr, "measuring")
    measure.send_signal(number)
    assert "no packets came" in error_of(end(measure))


def test_interrupt_while_it_connects_ends_it(commands: Commands, producer_name: str, run_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.settimeout(LIMIT_S)
        listening.bind(str(run_dir / f"{producer_name}.sock"))
        listening.listen()
        measure = commands.start("zbuf", "measure", producer_name)
        with listening.accept()[0] as client:
            assert isinstance(control.decode_request(client.recv(65536)), control.Connect)
            measure.send_signal(signal.SIGINT)  # it waits for the answer, or is about to
            done = end(measure)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
