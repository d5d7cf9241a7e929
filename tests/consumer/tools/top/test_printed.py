"""zbuf top off a terminal: tables and JSON, update after update."""

import itertools
import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from support.commands import Commands, run, wait_line
from support.live_lab import LiveLab, frame, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S, Lab, Remote

from zbuf.producer import Producer

pytestmark = pytest.mark.usefixtures("run_dir")


def columns_of(lines: list[str], first: str) -> dict[str, str]:
    """The first row of the table whose columns have `first` among them, by those; columns are two spaces apart."""
    at = next(at for at, line in enumerate(lines) if first in line)
    heads = {match.start(): match[0] for match in re.finditer(r"\S+(?: \S+)*", lines[at])}
    ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", lines[at])]
    row = [(match.start(), match.end(), match[0]) for match in re.finditer(r"\S+(?: \S+)*", lines[at + 1])]
    cells = {}
    for (start, head), end in zip(heads.items(), ends, strict=True):
        cells[head] = next(text for begin, over, text in row if begin < end and over > start)
    return cells


def number(text: str) -> float:
    return float(text.removeprefix("! ").replace(",", ""))


@pytest.mark.usefixtures("busy_lab")
def test_once_prints_tables_whose_numbers_add_up(lab: Lab) -> None:
    done = run("zbuf", "top", "--once", "-d", "0.2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("  1 producer, 1 descriptor, 1 reader")
    source, one, reads = (columns_of(lines, head) for head in ("interface", "received/s", "process"))
    assert (source["producer"], source["pid"], source["interface"]) == (lab.name, str(lab.process.pid), lab.name)
    assert number(source["packets/s"]) == pytest.approx(number(one["received/s"]), abs=1)
    assert number(one["received/s"]) == pytest.approx(2 * number(one["accepted/s"]), rel=0.01, abs=20)
    assert number(one["accepted/s"]) == number(one["drops/s"]) == number(reads["drops/s meanwhile"]) > 0
    assert one["drops/s"].startswith("! ")
    assert one["filter"] == r"len > 100\r or len < 1"
    assert number(one["dropped"]) > 0
    assert 80 <= int(one["buffer"].rstrip("%")) <= 100
    assert (reads["pid"], reads["packets/s"], reads["held"]) == (str(os.getpid()), "0", "2")
    assert "! slow" in lines[-2]
    assert lines[-1] == ""


@pytest.mark.usefixtures("busy_lab")
@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color", "TTY_COMPATIBLE": "1"}], ids=str)
def test_nothing_but_text_is_printed_off_a_terminal(forced: dict[str, str]) -> None:
    done = run("zbuf", "top", "-n", "2", "-d", "0.1", env=os.environ | forced)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("received/s") == 2
    assert all(line.isprintable() for line in done.stdout.splitlines())


@pytest.mark.usefixtures("busy_lab")
def test_lines_of_json_have_rates_that_the_counts_confirm() -> None:
    done = run("zbuf", "top", "--json", "-n", "3", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    updates = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(updates) == 3
    for before, now in itertools.pairwise(updates):
        assert before["time"] < now["time"]
        (was,), (one,) = before["producers"], now["producers"]
        assert one["interval_s"] == pytest.approx(one["uptime_s"] - was["uptime_s"])
        assert one["rates"]["offered"] * one["interval_s"] == pytest.approx(one["offered"] - was["offered"])
        (old,), (new,) = was["descriptors"], one["descriptors"]
        for name, rate in new["rates"].items():
            assert rate * one["interval_s"] == pytest.approx(new[name] - old[name])
        assert new["rates"]["received"] == pytest.approx(new["rates"]["filtered"] + new["rates"]["accepted"])
        assert new["received"] == new["filtered"] + new["accepted"]
        assert new["readers"][0]["slow"] is True
        assert new["readers"][0]["rates"]["stalled"] > 0


def test_json_of_once_has_rates_and_of_no_producer_an_empty_list(lab: Lab) -> None:
    done = run("zbuf", "top", lab.name, "--json", "--once", "-d", "0.1")
    (one,) = json.loads(done.stdout)["producers"]
    assert one["rates"] == {"offered": 0, "waits": 0}
    lab.close()
    done = run("zbuf", "top", "--json", "--once", "-d", "0.1")
    assert (done.returncode, json.loads(done.stdout)["producers"], done.stderr) == (0, [], "")


def test_producer_that_dies_and_returns_is_followed_by_its_name(
    commands: Commands, remote: Callable[[], Remote], producer_name: str
) -> None:
    lab = Lab(remote(), producer_name)
    lab.append(1000)
    process = commands.start("zbuf", "top", producer_name, "--json", "-d", "0.1")

    def wait_for(part: str) -> dict[str, Any]:
        (one,) = json.loads(wait_line(process.stdout, part))["producers"]
        assert isinstance(one, dict)
        assert all(rate >= 0 for rate in one.get("rates", {}).values())
        return one

    assert wait_for('"interval_s": 0.')["rates"] == {"offered": 0, "waits": 0}
    lab.kill()
    assert wait_for('"problem"')["problem"].startswith(f"no producer '{producer_name}' runs")
    lab = Lab(remote(), producer_name)
    found = wait_for('"interval_s"')
    assert (found["interval_s"], found["rates"]) == (0, {})
    assert wait_for('"rates": {"offered": ')["pid"] == lab.process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def test_without_a_producer_it_says_so_and_waits_for_one(commands: Commands, producer_name: str) -> None:
    done = run("zbuf", "top", "--once", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d\d:\d\d:\d\d  no producer runs\n\n", done.stdout)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = commands.start("zbuf", "top", "-d", "0.1", env=buffered)
    wait_line(process.stdout, "no producer runs")
    with Producer(producer_name, linger_s=0):
        wait_line(process.stdout, f"{producer_name}  {os.getpid()}")
    wait_line(process.stdout, "no producer runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, "")


def test_named_producer_that_is_not_there_is_an_error_of_once_alone(commands: Commands) -> None:
    done = run("zbuf", "top", "nobody", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"zbuf: no producer 'nobody' runs in .*: start it with zbufd\n", done.stderr)
    process = commands.start("zbuf", "top", "nobody", "-d", "0.1")
    assert "! no producer 'nobody' runs in" in wait_line(process.stdout, "nobody")


def test_named_producer_that_is_killed_before_the_last_update_is_an_error(commands: Commands, lab: Lab) -> None:
    process = commands.start("zbuf", "top", lab.name, "--json", "-n", "15", "-d", "0.1")
    wait_line(process.stdout, lab.name)
    lab.kill()
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert re.fullmatch(rf"zbuf: no producer '{lab.name}' runs in .*: start it with zbufd\n", said)


def test_only_those_that_are_named_are_shown(producer_name: str) -> None:
    with Producer(f"{producer_name}a"), Producer(f"{producer_name}b"), Producer(f"{producer_name}c"):
        done = run("zbuf", "top", f"{producer_name}c", f"{producer_name}a", "--once", "--json", "-d", "0.1")
    assert [one["producer"] for one in json.loads(done.stdout)["producers"]] == [
        f"{producer_name}c",
        f"{producer_name}a",
    ]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["tables", "json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_quietly_off_a_terminal(commands: Commands, options: list[str], number: int) -> None:
    process = commands.start("zbuf", "top", "-d", "0.1", *options)
    wait_line(process.stdout, "")
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, "")


def test_pipe_that_breaks_is_a_quiet_end(commands: Commands) -> None:
    process = commands.start("zbuf", "top", "-d", "0.1")
    wait_line(process.stdout, "no producer")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(LIMIT_S) in (0, 1)
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["-d", "0"], "'0' is not a number of seconds, from 0.1 to 86400"),
        (["-d", "1e9"], "'1e9' is not a number of seconds"),
        (["-d", "nan"], "'nan' is not a number of seconds"),
        (["-d", "soon"], "'soon' is not a number of seconds"),
        (["-n", "0"], "'0' is not a whole number, 1 or more"),
        (["--once", "-n", "2"], "leave out --count"),
    ],
    ids=str,
)
def test_option_that_makes_no_sense_is_one_line_of_usage(options: list[str], part: str) -> None:
    done = run("zbuf", "top", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert part in done.stderr


@needs_namespace
@pytest.mark.slow
def test_live_interfaces_are_shown_with_their_state(wire: Network, commands: Commands, producer_name: str) -> None:
    live = LiveLab(wire, commands, producer_name, "-i", "za", "-i", "zb")
    process = commands.start("zbuf", "top", "-d", "0.1")
    for name in ("za", "zb"):
        assert re.search(rf"  {name}  +up  +0  +-  +0  +0  +0$", wait_line(process.stdout, f"  {name}  "))
    send(wire, [frame(number) for number in range(50)])
    while re.search(r"  zb  +up  +0 ", wait_line(process.stdout, "  zb  ")):
        pass
    wire.ip("link", "set", "zb", "down")
    live.wait_line("zb: is down")
    lines = iter(lambda: wait_line(process.stdout, "! down"), None)
    assert next(one for one in lines if "  zb  " in one).split()[3:6] == ["zb", "!", "down"]
    live.end()
