"""Fixtures that several test files use: names, processes, and the removal of what they leave behind."""

import contextlib
import itertools
import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_READY_WITHIN_SECONDS = 30  # a limit for broken code only: what works says so at once
_numbers = itertools.count()


@pytest.fixture
def producer_name() -> Iterator[str]:
    """A producer name of this test's own, dots included; every segment whose name begins with it is removed."""
    name = f"t{os.getpid()}.{next(_numbers)}x"
    yield name
    for segment in Path("/dev/shm").glob(f"zbuf.{name}*"):
        segment.unlink(missing_ok=True)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(program, *arguments): run a Python program as a process of its own, and come back once it says "ready".

    Its standard input ends when the test does, so that one that waits there never outlives it; it is killed anyhow.
    """
    with contextlib.ExitStack() as cleaning:

        def start_and_wait(program: str, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
            pipe = subprocess.PIPE
            process = cleaning.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            cleaning.callback(process.kill)
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], _READY_WITHIN_SECONDS)[0], "the process says nothing"
            assert process.stdout.readline() == "ready\n", "the process failed: see its standard error"
            return process

        yield start_and_wait
