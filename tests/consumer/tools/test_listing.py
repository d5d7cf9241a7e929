"""zbuf ls and zbuf stats."""

import json
import os
import pwd
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.commands import Commands, command, error_of, run
from support.processes import LIMIT_S, numbered, wait_stopped
from support.replays import LEDGER, PAGE, adds_up, start_dump, start_replay, wait_for_readers
from support.rig import wait_until

from zbuf.consumer import connect
from zbuf.producer import Producer

pytestmark = pytest.mark.usefixtures("run_dir")


@pytest.mark.slow
def test_statistics_add_up_at_every_call_while_it_runs(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    start_replay(commands, producer_name, numbered_pcap, "--loop", "0")
    start_dump(commands, producer_name, "-w", "/dev/null", "--buffer-size", "64k")
    start_dump(commands, producer_name, "-w", "/dev/null", "-s", "20", "ether[0] = 3")
    with connect(producer_name, buffer_size=PAGE):
        wait_for_readers(producer_name, 3)
        received = [0, 0, 0]
        for _ in range(5):
            done = run("zbuf", "stats", producer_name, "--json")
            assert (done.returncode, done.stderr) == (0, "")
            found = json.loads(done.stdout)
            assert found["producer"] == producer_name
            assert len(found["descriptors"]) == 3
            for at, one in enumerate(found["descriptors"]):
                assert set(LEDGER) <= set(one)
                assert adds_up(one)
                assert one["received"] > received[at]
                received[at] = one["received"]
            slow = next(one for one in found["descriptors"] if one["settings"]["buffer_bytes"] == PAGE)
            assert slow["dropped"] > slow["buffered"] > 0
            listed = json.loads(run("zbuf", "ls", "--json").stdout)
            assert [one["producer"] for one in listed] == [producer_name]
            assert all(adds_up(one) for one in listed[0]["descriptors"])


def test_statistics_for_people_show_the_same_counts(producer_name: str) -> None:
    with (
        Producer(producer_name, linger_s=0) as producer,
        connect(
            producer_name,
            filter="len > 100",
            timeout_ms=60_000,  # so that no buffer is assigned meanwhile
        ),
    ):
        for size in (60, 200, 300):
            producer.append(numbered(1, size))
        done = run("zbuf", "stats", producer_name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{producer_name}: pid {os.getpid()}, ")
    assert lines[0].endswith("link-type 1, " + producer_name + ": 3 packets offered")
    assert lines[1].split() == ["descriptor", "filter", *LEDGER, "received", "bytes", "dropped", "bytes"]
    assert lines[2].split()[-10:] == ["3", "1", "2", "0", "0", "0", "2", "0", "560", "0"]
    assert lines[4].split()[-5:] == [pwd.getpwuid(os.getuid()).pw_name, "0", "0", "0", "0"]


def test_statistics_for_people_have_the_sums_of_readers_that_have_left(producer_name: str) -> None:
    with Producer(producer_name, linger_s=0) as producer:
        with connect(producer_name):
            producer.append(b"packet")
        wait_until(lambda: not producer.stats().descriptors)
        lines = run("zbuf", "stats", producer_name).stdout.splitlines()
    assert lines[1].split() == ["descriptor", "filter", *LEDGER, "received", "bytes", "dropped", "bytes"]
    assert lines[2].split() == ["closed", "1", "0", "1", "0", "0", "1", "0", "0", "6", "0"]
    assert lines[3:] == ["no reader is connected"]


def test_a_filter_that_somebody_else_made_up_is_shown_in_one_line_with_nothing_that_a_terminal_obeys(
    producer_name: str,
) -> None:
    with Producer(producer_name, linger_s=0), connect(producer_name, filter="ether host 0:a:b:c:d:e\nor ip6"):
        done = run("zbuf", "stats", producer_name)
    assert r"ether host 0:a:b:c:d:e\nor ip6" in done.stdout.splitlines()[2]


def test_ls_lists_the_producers_and_none_that_is_dead(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    dead = start_replay(commands, f"{producer_name}dead", numbered_pcap, "--wait-readers", "1")
    dead.kill()
    dead.wait()
    with Producer(f"{producer_name}b"), Producer(f"{producer_name}a"):
        done = run("zbuf", "ls")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == [
        "name",
        "pid",
        "user",
        "up",
        "interfaces",
        "descriptors",
        "readers",
        "offered",
        "dropped",
    ]
    assert [row.split()[0] for row in rows] == [f"{producer_name}a", f"{producer_name}b"]


def test_the_command_has_one_thread_though_numpy_would_have_one_for_each_processor() -> None:
    program = "import os, zbuf.__main__; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_ls_without_producers_says_where_it_looked_and_is_an_empty_list_in_json(run_dir: Path) -> None:
    done = run("zbuf", "ls")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"zbuf: no producer runs in {run_dir}\n")
    done = run("zbuf", "ls", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_run_directory_is_taken_from_the_option_before_the_environment(producer_name: str, run_dir: Path) -> None:
    with Producer(producer_name, run_dir=run_dir / "b"):
        assert json.loads(run("zbuf", "ls", "--json").stdout) == []
        found = json.loads(run("zbuf", "ls", "--json", "--run-dir", run_dir / "b").stdout)
        assert [one["producer"] for one in found] == [producer_name]


def test_ls_says_what_a_producer_that_is_stopped_does_not_say(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    stopped = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "1")
    stopped.send_signal(signal.SIGSTOP)
    wait_stopped(stopped.pid)
    (found,) = json.loads(run("zbuf", "ls", "--json").stdout)
    assert found["producer"] == producer_name
    assert found["problem"] == "the producer has not answered in time: is it stopped?"
    assert producer_name in run("zbuf", "ls").stdout


# ---- without a name -------------------------------------------------------------------------------------------------


def test_name_of_the_only_producer_may_be_left_out(producer_name: str, run_dir: Path) -> None:
    with Producer(producer_name, linger_s=0) as producer:
        found = json.loads(run("zbuf", "stats", "--json").stdout)
        assert found["producer"] == producer_name
        dump = subprocess.Popen(
            command("zbuf", "dump", "-c", "1", "-w", "/dev/null"), stderr=subprocess.PIPE, text=True
        )
        with dump:
            wait_until(lambda: producer.stats().descriptors)
            producer.append(b"packet")
            producer.rotate()
            assert f"reading {producer_name}," in dump.communicate(timeout=LIMIT_S)[1]
        assert dump.returncode == 0
        with Producer(f"{producer_name}2"):
            for tool in ("stats", "measure", "dump"):
                error = error_of(run("zbuf", tool), 2)
                assert f"several producers run: say which of {producer_name}, {producer_name}2" in error
    assert error_of(run("zbuf", "stats")) == f"zbuf: no producer runs in {run_dir}: start one with zbufd"


def test_shell_completes_the_names_of_producers(producer_name: str) -> None:
    def completions(words: str) -> list[str]:
        environment = {"_ZBUF_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return run("zbuf", env={**os.environ, **environment}).stdout.split()

    with Producer(f"{producer_name}a"), Producer(f"{producer_name}b"):
        for tool in ("stats", "dump", "measure", "top"):
            assert completions(f"zbuf {tool} {producer_name}") == [f"{producer_name}a", f"{producer_name}b"]
        assert completions(f"zbuf stats {producer_name}b") == [f"{producer_name}b"]
    assert completions("zbuf stats ") == []


@pytest.mark.parametrize("arguments", [["ls"], ["ls", "--json"], ["stats"]])
def test_what_takes_long_to_import_is_not_imported_to_list_producers(producer_name: str, arguments: list[str]) -> None:
    program = """
        import atexit, sys
        from zbuf.consumer.cli import main
        heavy = {"numpy", "pydantic", "rich", "scapy", "asyncio", "importlib.metadata", "concurrent.futures"}
        atexit.register(lambda: sys.stderr.write(" ".join(sorted(heavy & set(sys.modules)))))
        main()
    """
    with Producer(producer_name):
        line = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        done = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (0, "")
    assert producer_name in done.stdout
