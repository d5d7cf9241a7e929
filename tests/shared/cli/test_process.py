"""The signals that end a command, and the command that it starts."""

import subprocess
import sys

import pytest

from zbuf.shared.cli.process import sibling

PROGRAM = """
import os, signal, sys
from zbuf.shared.cli.process import interrupt_on, on_end
seen = []
{setup}
os.kill(os.getpid(), signal.{first})
print("once", *seen, flush=True)
os.kill(os.getpid(), signal.{second})
print("twice", *seen, flush=True)
"""


def said(setup: str, first: str, second: str) -> tuple[list[str], int]:
    """What a process prints that gets two signals, and its exit status."""
    program = PROGRAM.format(setup=setup, first=first, second=second)
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_first_signal_asks_for_an_end_and_the_same_again_ends_at_once(name: str) -> None:
    lines, status = said("on_end(lambda: seen.append(1))", name, name)
    assert (lines, status) == (["once 1"], {"SIGINT": -2, "SIGTERM": -15}[name])


def test_signal_may_be_answered_each_time_that_it_comes() -> None:
    lines, status = said("on_end(lambda: seen.append(1), again=False)", "SIGINT", "SIGINT")
    assert (lines, status) == (["once 1", "twice 1 1"], 0)


def test_hangup_that_nohup_ignores_stays_ignored() -> None:
    setup = "signal.signal(signal.SIGHUP, signal.SIG_IGN); on_end(lambda: seen.append(1), signal.SIGHUP)"
    assert said(setup, "SIGHUP", "SIGHUP") == (["once", "twice"], 0)
    setup = "signal.signal(signal.SIGHUP, signal.SIG_IGN); interrupt_on(signal.SIGHUP)"
    assert said(setup, "SIGHUP", "SIGHUP") == (["once", "twice"], 0)


@pytest.mark.parametrize("name", ["zbuf", "zbufd"])
def test_sibling_is_the_other_command_of_this_python(name: str) -> None:
    done = subprocess.run(sibling(name, "--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{name} ")
