"""The Makefile's targets, and the Pythons that the tests run with."""

import os
import re
import subprocess
import sys
from pathlib import Path

from support.project import ROOT

THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def make(*arguments: str) -> str:
    """What make prints, where no other make started it: that one's flags would be taken over."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_make_alone_tells_each_target() -> None:
    told = make()
    assert told == make("help")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert [line.split()[1] for line in told.splitlines()] == targets[1].split()


def pythons(folder: Path, *versions: str) -> subprocess.CompletedProcess[str]:
    """.ci/pythons, which prints what it would make; this Python is in a folder on its PATH."""
    (folder / f"python{THIS}").symlink_to(sys.executable)
    environment = {**os.environ, "MAKE": "echo make", "PATH": f"{folder}:{os.environ['PATH']}"}
    command: list[str | Path] = [ROOT / ".ci" / "pythons", *versions]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_the_tests_run_with_each_python_in_an_environment_of_its_own(tmp_path: Path) -> None:
    ran = pythons(tmp_path, THIS)
    assert ran.returncode == 0, ran.stderr
    assert f"\nmake test PYTHON=python{THIS} VENV=.venv-{THIS}\n" in ran.stdout


def test_a_python_that_is_not_here_is_a_failure(tmp_path: Path) -> None:
    ran = pythons(tmp_path, "3.99")
    assert ran.returncode == 1
    assert ran.stderr == "there is no Python 3.99 here, neither on the PATH nor in pyenv\n"
