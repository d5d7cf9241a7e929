"""make lint's look at who imports whom sees native modules and strings, too."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def copy(clone: Path, tmp_path: Path) -> Path:
    """A copy of the project to break rules in."""
    return Path(shutil.copytree(clone, tmp_path / "copy", symlinks=True))


def check(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the look."""
    return subprocess.run([sys.executable, project / ".ci" / "imports.py"], capture_output=True, text=True)


def test_the_project_breaks_no_rule(copy: Path) -> None:
    found = check(copy)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("consumer/reading/batches.py", "import zbuf.producer.limits_of_nobody\n", "is named here"),
        ("consumer/reading/segment_reader.pyx", "from zbuf.producer.ring.contract cimport NativeSource\n", "BROKEN"),
        ("shared/memory/abi.pxd", "from zbuf.producer.ring.contract cimport (\n    NativeSource,\n)\n", "BROKEN"),
        ("producer/ring/pump.pyx", "from zbuf.producer.producer import Producer\n", "BROKEN"),
        ("producer/sources/python.py", "PROGRAM = 'from zbuf.consumer.cli import main; main()'\n", "is named here"),
    ],
)
def test_what_breaks_a_rule_is_told(copy: Path, file: str, line: str, told: str) -> None:
    with (copy / file).open("a") as text:
        text.write(line)
    found = check(copy)
    assert found.returncode == 1
    assert told in found.stdout


def test_a_new_room_must_be_given_its_layer(copy: Path) -> None:
    (copy / "producer" / "attic.py").write_text("")
    found = check(copy)
    assert found.returncode == 1
    assert "attic" in found.stdout
