"""Producers of several users beside each other in one run directory."""

import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import pcap
from support.commands import Commands, command, end, run, wait_line
from support.live_lab import READING
from support.processes import LIMIT_S
from support.replays import records

NOBODY, DAEMON, BIN = 65534, 1, 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start programs of several users"),
]


def as_user(uid: int, name: str, *arguments: str | os.PathLike[str]) -> list[str | bytes]:
    """The command line of zbufd or zbuf as another user."""
    return [*READING, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *command(name, *arguments)]


def run_as(uid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(as_user(uid, "zbuf", *arguments), capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture
def shared(run_dir: Path) -> Path:
    """A run directory for all users, as an administrator makes it."""
    run_dir.chmod(0o1777)
    return run_dir


@pytest.fixture
def capture_file() -> Iterator[Path]:
    """A capture file that every user can read."""
    directory = Path(tempfile.mkdtemp(prefix="zbuf-test-"))
    directory.chmod(0o755)
    (directory / "lab.pcap").write_bytes(pcap(records(1000), nanoseconds=True))
    yield directory / "lab.pcap"
    shutil.rmtree(directory)


def listed(uid: int = 0) -> dict[str, dict[str, Any]]:
    return {one["producer"]: one for one in json.loads(run_as(uid, "ls", "--json").stdout)}


def test_captures_of_two_users_and_a_replay_of_a_third_are_side_by_side(
    commands: Commands, producer_name: str, shared: Path, capture_file: Path
) -> None:
    first, second, third = (f"{producer_name}{letter}" for letter in "abc")
    capture = ("capture", "-i", "lo", "--log-format", "text")
    replay = ("replay", capture_file, "--name", third, "--loop", "0", "--pps", "100", "--mode", "0666")
    producers = [
        commands.start("zbufd", *capture, "--name", first, "--user", "nobody"),
        commands.start("zbufd", *capture, "--name", second, "--user", "daemon", "--mode", "0666"),
        commands.adopt(subprocess.Popen(as_user(BIN, "zbufd", *replay), stderr=subprocess.PIPE, text=True)),
    ]
    for producer, word in zip(producers, ("connect to", "connect to", "ready in"), strict=True):
        wait_line(producer.stderr, word)

    found = listed()
    assert {name: one["user"] for name, one in found.items()} == {first: "nobody", second: "daemon", third: "bin"}
    assert all("problem" not in one for one in found.values())

    seen = listed(BIN)
    assert seen[first] == {"producer": first, "problem": "no permission", "user": "nobody", "directory": str(shared)}
    assert seen[second]["pid"] == producers[1].pid
    rows = {row.split()[0]: row for row in run_as(BIN, "ls").stdout.splitlines()}
    assert "no permission" in rows[first]
    assert "bin" in rows[third]

    done = run_as(DAEMON, "dump", third, "-c", "1", "-w", "/dev/null")
    assert done.returncode == 0, done.stderr

    look = shared.stat()
    assert (look.st_uid, stat.S_IMODE(look.st_mode)) == (0, 0o1777)
    producers[1].kill()
    producers[1].wait()
    assert set(listed()) == set(listed(BIN)) == {first, third}
    for producer in (producers[0], producers[2]):
        producer.send_signal(signal.SIGTERM)
        assert end(producer).returncode == 0
    assert {one.name for one in shared.iterdir()} <= {second, f"{second}.sock"}


def test_root_s_producer_starts_beside_one_that_root_has_given_to_another_user(
    commands: Commands, producer_name: str, run_dir: Path, numbered_pcap: Path
) -> None:
    own = run_dir / "own"
    run_dir.chmod(0o755)
    first = commands.start(
        "zbufd", "capture", "-i", "lo", "--name", producer_name, "--user", "nobody", "--run-dir", own,
        "--log-format", "text",
    )  # fmt: skip
    wait_line(first.stderr, "connect to")
    done = run("zbufd", "replay", numbered_pcap, "--name", f"{producer_name}2", "--run-dir", own, "--group", "daemon")
    assert done.returncode == 0, done.stderr
    refused = run("zbufd", "replay", numbered_pcap, "--name", producer_name, "--run-dir", own)
    assert refused.returncode == 1
    assert f"the name '{producer_name}' is taken in {own} by user nobody" in refused.stderr
    look = own.stat()
    assert (look.st_uid, look.st_gid, stat.S_IMODE(look.st_mode)) == (0, 0, 0o755)
    first.send_signal(signal.SIGTERM)
    assert end(first).returncode == 0
    assert list(own.iterdir()) == []


def test_replay_as_another_user_lets_a_group_in_and_removes_its_directory(
    commands: Commands, producer_name: str, run_dir: Path, capture_file: Path
) -> None:
    run_dir.chmod(0o755)
    options = ("--name", producer_name, "--user", "nobody", "--group", "daemon", "--loop", "0", "--pps", "100")
    replay = commands.start("zbufd", "replay", *options, capture_file)
    wait_line(replay.stderr, "ready in")
    look = (run_dir / producer_name).stat()
    assert (look.st_uid, look.st_gid, stat.S_IMODE(look.st_mode)) == (NOBODY, DAEMON, 0o2710)
    assert "problem" not in listed(DAEMON)[producer_name]
    assert listed(BIN)[producer_name]["problem"] == "no permission"
    replay.send_signal(signal.SIGTERM)
    assert end(replay).returncode == 0
    assert list(run_dir.iterdir()) == []
