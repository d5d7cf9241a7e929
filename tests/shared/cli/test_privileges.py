"""Commands that give up privileges: nothing is imported from then on, because their user may not be able to read it."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.captures import Record, pcap
from support.commands import Commands, run
from support.processes import LIMIT_S

_NOTHING_IMPORTED = '''
import sys
from pathlib import Path

class Refuse:
    """Finds nothing once this process has given up the right to gain privileges."""

    def find_spec(self, name, path=None, target=None):
        if "NoNewPrivs:\\t1" in Path("/proc/thread-self/status").read_text():
            raise ModuleNotFoundError(f"{name} can't be read any more")

sys.meta_path.insert(0, Refuse())
'''


@pytest.fixture
def refusing(tmp_path: Path) -> Mapping[str, str]:
    """An environment in which a process that gave up privileges can import nothing."""
    (tmp_path / "sitecustomize.py").write_text(_NOTHING_IMPORTED)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "capture.pcap"
    path.write_bytes(pcap([Record(bytes(60), number, 60) for number in range(100)]))
    return path


@pytest.mark.parametrize("output", [[], ["-w", "{}/out.pcapng"], ["-w", "{}/out.pcapng.zst", "--compress", "zstd"]])
def test_a_saved_file_is_dumped(refusing: Mapping[str, str], capture: Path, tmp_path: Path, output: list[str]) -> None:
    words = [word.format(tmp_path) for word in output]
    done = run("zbuf", "dump", "-r", capture, "-Z", getpass.getuser(), *words, env=refusing)
    assert done.returncode == 0, done.stderr
    assert "100 packets captured" in done.stderr


@pytest.mark.parametrize("output", [[], ["-w", "{}/out.pcapng"]])
def test_a_capture_is_replayed_to_a_dump(
    commands: Commands,
    refusing: Mapping[str, str],
    capture: Path,
    producer_name: str,
    tmp_path: Path,
    output: list[str],
) -> None:
    user = ["-Z", getpass.getuser()]
    options = ["--name", producer_name, "--lossless", "--wait-readers", "1"]
    replay = commands.start("zbufd", "replay", capture, *options, *user, env=refusing)
    words = [word.format(tmp_path) for word in output]
    dump = commands.start("zbuf", "dump", producer_name, "--wait-producer", "60", *words, *user, env=refusing)
    _, told = dump.communicate(timeout=LIMIT_S)
    assert dump.returncode == 0, told
    _, told = replay.communicate(timeout=LIMIT_S)
    assert replay.returncode == 0, told
