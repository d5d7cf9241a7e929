"""The Makefile's targets, and the Pythons that the tests run with."""

import os
import re
import subprocess
import sys

from support.project import ROOT


def make(*arguments: str) -> str:
    """What make prints."""
    return subprocess.run(["make", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_make_alone_tells_each_target() -> None:
    told = make()
    assert told == make("help")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert [line.split()[1] for line in told.splitlines()] == targets[1].split()


def pythons(*versions: str) -> subprocess.CompletedProcess[str]:
    """.ci/pythons, which prints what it would make."""
    return subprocess.run(
        [ROOT / ".ci" / "pythons", *versions],
        env={**os.environ, "MAKE": "echo make"},
        capture_output=True,
        text=True,
    )


def test_the_tests_run_with_each_python_in_an_environment_of_its_own() -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    ran = pythons(version)
    if ran.returncode != 0:  # of an environment whose Python is on no PATH
        assert "there is no Python" in ran.stderr
        return
    assert re.search(rf"^make test PYTHON=\S+ VENV=\.venv-{re.escape(version)}$", ran.stdout, re.MULTILINE)


def test_a_python_that_is_not_here_is_a_failure() -> None:
    ran = pythons("3.99")
    assert ran.returncode == 1
    assert ran.stderr == "there is no Python 3.99 here, neither on the PATH nor in pyenv\n"
