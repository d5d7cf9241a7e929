"""zbufd sweep: consumers of every kind."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.captures import Record, pcap
from support.commands import Commands, Done, end, error_of, run
from support.processes import LIMIT_S, numbered
from support.rig import wait_until

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


# ---- consumers ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_speed_of_a_consumer_is_found(
    producer_name: str, capture: Path, consumer: Callable[..., str], tmp_path: Path
) -> None:
    plot, junit = tmp_path / "sweep.png", tmp_path / "sweep.xml"
    options = ["--consumer", consumer(SPEED), "--trial", "2", "--warm-up", "0.3", "--precision", "2", "--tries", "2"]
    options += ["--loss", "10", "--json", "--plot", str(plot), "--junit", str(junit), "--fail-if-lost"]
    done = run("zbufd", "sweep", capture, "--name", producer_name, *options, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ndr"]["pps"] == pytest.approx(SPEED, rel=0.05), found["trials"]
    assert found["pdr"]["pps"] == pytest.approx(SPEED / 0.9, rel=0.07), found["trials"]
    assert len(found["ndr"]["tries_pps"]) == len(found["pdr"]["tries_pps"]) == 2
    assert found["limited_by"] == "consumer"
    assert found["trials"][0]["asked"] is None
    assert found["trials"][0]["dropped"] > 0
    assert all(trial["passed"] == (trial["dropped"] + trial["behind"] == 0) for trial in found["trials"])
    assert [[one["name"] for one in each] for each in found["processes"].values()] == [[name_of_python()]]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(junit).getroot().find("testsuite/[@failures='0']") is not None  # noqa: S314  (our own file)


def name_of_python() -> str:
    """What the kernel calls a process of this Python: the first 15 bytes of the name that it was started by."""
    return Path(sys.executable).name[:15]


@pytest.mark.slow
def test_several_consumers_are_swept_together(producer_name: str, capture: Path, consumer: Callable[..., str]) -> None:
    both = ["--consumer", consumer(SPEED), "--consumer", consumer(SPEED / 2)]
    done = sweep(producer_name, capture, *both, "--precision", "20", "--tries", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {trial["descriptors"] for trial in found["trials"]} == {2}
    assert 0 < found["ndr"]["lowest_pps"] < SPEED
    assert all(0 <= trial["lost_share"] <= 1 for trial in found["trials"])


@pytest.mark.slow
def test_the_table_tells_what_was_tried(producer_name: str, capture: Path, consumer: Callable[..., str]) -> None:
    done = sweep(producer_name, capture, "--consumer", consumer(5000), "--precision", "50", "--tries", "1", "--latency")
    assert done.returncode == 0, done.stderr
    heads, *rows = done.stdout.splitlines()
    assert heads.split()[:2] == ["asked", "packets/s"]
    assert "latency p99 µs" in heads
    assert rows[0].startswith("top speed")
    assert sum(row.rstrip().endswith("NDR") for row in rows) <= 1
    assert rows[-1].startswith("NDR")
    assert any(row.startswith("descriptor 1 was read by ") for row in rows), rows


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
    assert "NDR" not in done.stdout


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
        (["--consumer", "x", "--tries", "0"], "'--tries': '0'"),
        (["--consumer", "x", "--loss", "0"], "'--loss': '0' is not a loss: give from 0.0001 to 90 percent"),
        (["--consumer", "x", "--max-lag", "soon"], "'--max-lag': 'soon' is not a number of milliseconds"),
        (["--consumer", "x", "--readers", "0"], "--readers"),
    ],
)
def test_usage(capture: Path, options: list[str], said: str) -> None:
    assert said in error_of(run("zbufd", "sweep", capture, *options), 2)


def test_a_plot_that_can_not_be_written_is_told_before_the_sweep(producer_name: str, capture: Path) -> None:
    line = error_of(sweep(producer_name, capture, "--consumer", "sleep 1000", "--plot", "/nowhere/x.png"))
    assert line == "zbufd: --plot /nowhere/x.png: No such file or directory"


@pytest.mark.slow
def test_a_damaged_file_is_swept_and_fails_the_sweep(
    producer_name: str, capture: Path, consumer: Callable[..., str]
) -> None:
    capture.write_bytes(capture.read_bytes()[:-7])
    options = ["--consumer", consumer(SPEED), "--precision", "50", "--tries", "1", "--json"]
    done = sweep(producer_name, capture, *options)
    assert done.returncode == 1
    assert "damaged after 99 whole packets" in done.stderr
    assert json.loads(done.stdout)["trials"]
