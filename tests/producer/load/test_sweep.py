"""zbufd sweep: the search on made-up devices, and consumers of every kind."""

import json
import math
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.captures import Record, pcap
from support.commands import Commands, Done, end, error_of, run
from support.processes import LIMIT_S, numbered
from support.rig import wait_until

from zbuf.producer.load.sweep.results import Results
from zbuf.producer.load.sweep.search import Trial, find_throughput, throughput

SPEED = 20_000
CONSUMER = """
import sys, time
from zbuf.consumer import connect
name, speed, packets, last_deed = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with connect(name, timeout_ms=20, buffer_size=256 << 10) as reader:
    done = 0
    for buffer in reader.buffers():
        packets -= buffer.packets
        if packets < 0:
            break
        done = max(done, time.monotonic() - 0.01) + buffer.packets / speed
        while (left := done - time.monotonic()) > 0:
            time.sleep(left)
    else:
        sys.exit()
    if last_deed == "die":
        sys.exit("consumer: enough")
    if last_deed == "hang":
        signal.pause()
if last_deed == "leave":
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> None:
    """Every test here has a run directory of its own."""


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "lab.pcap"
    path.write_bytes(pcap([Record(numbered(number), number, 60) for number in range(100)]))
    return path


@pytest.fixture
def consumer(tmp_path: Path) -> Callable[..., str]:
    """consumer(...): a command that takes so many packets per second, and so many, and what it does then."""
    path = tmp_path / "consumer.py"
    path.write_text("import signal" + CONSUMER)

    def command(speed: float = 1e9, packets: float = 1e18, last_deed: str = "die") -> str:
        return f"exec {sys.executable} {path} {{name}} {speed} {packets} {last_deed}"

    return command


def sweep(name: str, capture: Path, *options: str) -> Done:
    return run("zbufd", "sweep", capture, "--name", name, "--trial", "0.2", "--warm-up", "0", *options, timeout=120)


# ---- the search -----------------------------------------------------------------------------------------------------


def device(speed: float, top: float = 1e7, hiccups: float = 0.0, consumers: int = 1) -> Callable[[float | None], Trial]:
    """Trials of made-up consumers behind a made-up producer; so many of them, by chance, go wrong."""
    chance = random.Random(1)

    def trial(rate: float | None) -> Trial:
        offered = min(top, rate or top)
        dropped = consumers * math.ceil(max(0, offered - speed)) + 10 * (chance.random() < hiccups)
        return Trial(rate, round(offered), 60 * round(offered), 1.0, dropped, 0, 0.0, {}, {}, consumers)

    return trial


@pytest.mark.parametrize("speed", [50, 12_345, 999_999, 7_654_321, 9_999_000])
@pytest.mark.parametrize("precision", [0.001, 0.01, 0.1])
def test_the_speed_of_a_device_is_found(speed: float, precision: float) -> None:
    trials = find_throughput(device(speed), precision)
    best = throughput(trials)
    assert best is not None
    assert speed * (1 - precision) - 1 <= best.rate <= speed
    assert len(trials) < 40


def test_the_speed_of_several_consumers_is_found_though_they_lose_more_than_was_sent() -> None:
    trials = find_throughput(device(20_000, consumers=3), 0.01)
    assert trials[0].dropped > trials[0].packets
    assert 0.99 < trials[0].lost_share < 1
    best = throughput(trials)
    assert best is not None
    assert 19_800 <= best.rate <= 20_000


def test_a_device_that_loses_nothing_needs_one_trial() -> None:
    trials = find_throughput(device(2e7), 0.01)
    assert [trial.asked for trial in trials] == [None]
    assert throughput(trials) is trials[0]


def test_a_device_that_takes_nothing_has_no_throughput() -> None:
    assert throughput(find_throughput(device(0), 0.01)) is None
    assert throughput(find_throughput(device(0.5), 0.01)) is None


def test_hiccups_are_forgiven_once() -> None:
    best = throughput(find_throughput(device(50_000, hiccups=0.1), 0.01, tries=3))
    assert best is not None
    assert 49_000 <= best.rate <= 50_000


def test_a_producer_that_can_not_keep_up_ends_the_search() -> None:
    """At top speed it is faster than at any rate, and drops packets."""

    def run_trial(rate: float | None) -> Trial:
        packets = 1000 if rate is None else 500
        return Trial(rate, packets, 60 * packets, 1.0, 100 if rate is None else 0, 0, 0.0, {}, {})

    trials = find_throughput(run_trial, 0.01)
    assert len(trials) == 2
    assert throughput(trials) is trials[1]
    results = Results(files=[], consumers=[], trial_s=1.0, precision=0.01, trials=trials)
    assert results.is_producers_limit
    assert "nothing was lost at what the producer could offer" in results.verdict()


def test_a_producer_that_has_a_hiccup_does_not_end_the_search() -> None:
    consumer, hiccups = device(50_000), iter([False, True, *[False] * 100])

    def run_trial(rate: float | None) -> Trial:
        trial = consumer(rate)
        return replace(trial, packets=trial.packets // 2, dropped=0) if next(hiccups) else trial

    trials = find_throughput(run_trial, 0.01, tries=2)
    best = throughput(trials)
    assert best is not None
    assert 49_500 <= best.rate <= 50_000
    results = Results(files=[], consumers=[], trial_s=1.0, precision=0.01, trials=trials)
    assert results.verdict().endswith("within 1 %")
    assert json.loads(results.as_json())["limited_by"] == "consumer"


# ---- consumers ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_speed_of_a_consumer_is_found(
    producer_name: str, capture: Path, consumer: Callable[..., str], tmp_path: Path
) -> None:
    plot = tmp_path / "sweep.png"
    options = ["--consumer", consumer(SPEED), "--precision", "1", "--tries", "3", "--json", "--plot", str(plot)]
    done = run(
        "zbufd", "sweep", capture, "--name", producer_name, "--trial", "2", "--warm-up", "0.3", *options, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["throughput_pps"] == pytest.approx(SPEED, rel=0.05), found["trials"]
    assert found["throughput_mbps"] == pytest.approx(found["throughput_pps"] * 60 * 8e-6, rel=1e-6)
    assert found["limited_by"] == "consumer"
    assert found["trials"][0]["asked"] is None
    assert found["trials"][0]["dropped"] > 0
    assert all(trial["passed"] == (trial["dropped"] + trial["behind"] == 0) for trial in found["trials"])
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_consumers_are_swept_together(producer_name: str, capture: Path, consumer: Callable[..., str]) -> None:
    both = ["--consumer", consumer(SPEED), "--consumer", consumer(SPEED / 2)]
    done = sweep(producer_name, capture, *both, "--precision", "20", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {trial["descriptors"] for trial in found["trials"]} == {2}
    assert 0 < found["throughput_pps"] < SPEED
    assert all(0 <= trial["lost_share"] <= 1 for trial in found["trials"])


@pytest.mark.slow
def test_the_table_tells_what_was_tried(producer_name: str, capture: Path, consumer: Callable[..., str]) -> None:
    done = sweep(producer_name, capture, "--consumer", consumer(5000), "--precision", "50", "--latency")
    assert done.returncode == 0, done.stderr
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:2] == ["asked", "packets/s"]
    assert "latency p99 µs" in heads
    assert rows[0].startswith("top speed")
    assert sum(row.endswith("throughput") or "throughput" in row for row in rows[:-1]) <= 1
    assert rows[-1].startswith("throughput: ")


def test_a_consumer_that_ends_at_once_is_told_with_its_last_words(producer_name: str, capture: Path) -> None:
    line = error_of(sweep(producer_name, capture, "--consumer", "echo begin >&2; echo no {name} here >&2; exit 3"))
    assert "ended with status 3: no " + producer_name + " here" in line


def test_a_consumer_that_does_not_connect_is_told_and_ended(producer_name: str, capture: Path, tmp_path: Path) -> None:
    number = tmp_path / "pid"
    line = error_of(
        sweep(producer_name, capture, "--consumer", f"echo $$ > {number}; sleep 1000 & wait", "--wait", "0.5")
    )
    assert "has not connected" in line
    assert "within 0.5 s: write {name}" in line
    assert not any_of_group(int(number.read_text()))


def any_of_group(group: int) -> bool:
    """Whether a process of a group lives."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of_group) == group and state != "Z":
            return True
    return False


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sleep 1000 & echo $$ > {pid}", "ended with status 0"),
        ("(trap '' TERM; exec sleep 1000) & (trap '' TERM; echo $$ > {pid}; exec sleep 1000)", "has not connected"),
    ],
    ids=["the-shell-has-ended", "deaf"],
)
@pytest.mark.slow
def test_what_a_consumer_has_started_is_ended_too(
    producer_name: str, capture: Path, tmp_path: Path, command: str, said: str
) -> None:
    number = tmp_path / "pid"
    with_number = command.replace("{pid}", str(number))
    line = error_of(sweep(producer_name, capture, "--consumer", with_number, "--wait", "0.5"))
    assert said in line
    assert not any_of_group(int(number.read_text()))


@pytest.mark.parametrize(
    ("last_deed", "said"),
    [("die", "ended with status 1: consumer: enough"), ("hang", "consumer hangs"), ("leave", "has left in the middle")],
)
def test_a_consumer_that_stops_in_a_trial_is_told(
    producer_name: str, capture: Path, consumer: Callable[..., str], last_deed: str, said: str
) -> None:
    done = sweep(producer_name, capture, "--consumer", consumer(1e9, 2000, last_deed), "--wait", "2")
    assert said in error_of(done)


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_trials_that_were_made_are_printed_though_a_consumer_dies_in_a_later_one(
    producer_name: str, capture: Path, consumer: Callable[..., str], options: tuple[str, ...]
) -> None:
    """It takes what is left in its buffers of the first trial, and two buffers more."""
    packets = 3 * (256 << 10) // (60 + 32)
    done = sweep(producer_name, capture, "--consumer", consumer(SPEED, packets), *options)
    assert done.returncode == 1
    assert done.stderr.endswith("ended with status 1: consumer: enough\n")
    rows = done.stdout.splitlines()
    assert len(rows) >= 2 if not options else not rows
    assert all("top speed" in row for row in rows[1:2])
    assert "throughput:" not in done.stdout


def test_an_empty_capture_is_told(producer_name: str, tmp_path: Path, consumer: Callable[..., str]) -> None:
    path = tmp_path / "empty.pcap"
    path.write_bytes(pcap([]))
    assert error_of(sweep(producer_name, path, "--consumer", consumer())) == f"zbufd: {path}: no packets to replay"


def test_a_damaged_capture_is_swept_as_far_as_it_is_whole_and_told_and_the_status_is_1(
    producer_name: str, capture: Path, consumer: Callable[..., str]
) -> None:
    capture.write_bytes(capture.read_bytes()[:-1])
    done = sweep(producer_name, capture, "--consumer", consumer(), "--precision", "50", "--tries", "1", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["trials"]) >= 1
    assert done.stderr.startswith(f"zbufd: {capture}: damaged after 99 whole packets")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_interrupted_takes_its_consumers_along(
    commands: Commands, producer_name: str, capture: Path, consumer: Callable[..., str], tmp_path: Path, number: int
) -> None:
    note = tmp_path / "pid"
    sweeping = commands.start(
        "zbufd", "sweep", capture, "--name", producer_name, "--consumer", f"echo $$ > {note}; {consumer(1000)}"
    )
    wait_until(lambda: note.exists() and note.read_text().strip())
    group = int(note.read_text())
    wait_until(lambda: Path(f"/dev/shm/zbuf.{producer_name}").exists() or list(segments(producer_name)))
    sweeping.send_signal(number)
    assert end(sweeping, LIMIT_S).returncode == 130
    assert not any_of_group(group)
    assert list(segments(producer_name)) == []


def segments(name: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"zbuf.{name}*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--consumer"),
        (["--consumer", "x", "--trial", "0"], "more than 0 seconds"),
        (["--consumer", "x", "--precision", "0"], "'0' is not a precision"),
        (["--consumer", "x", "--precision", "much"], "'much' is not a precision"),
        (["--consumer", "x", "--tries", "0"], "--tries"),
        (["--consumer", "x", "--readers", "0"], "--readers"),
    ],
)
def test_usage(capture: Path, options: list[str], said: str) -> None:
    assert said in error_of(run("zbufd", "sweep", capture, *options), 2)


def test_a_plot_that_can_not_be_written_is_told_before_the_sweep(producer_name: str, capture: Path) -> None:
    line = error_of(sweep(producer_name, capture, "--consumer", "sleep 1000", "--plot", "/nowhere/x.png"))
    assert line == "zbufd: --plot /nowhere/x.png: No such file or directory"
