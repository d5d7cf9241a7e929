"""Where a run happens: a directory, a producer's name, and processes that don't outlive it.

Every run has new processes. The layout of a process's memory is a matter of chance, and changes its speed by some
percent for as long as it lives. The median over several processes is free of that.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from zbuf.shared.memory.leftovers import leftovers

ROOT = Path(__file__).resolve().parents[1]
"""The top of the repository; ``bench`` can be imported from there."""

TIMEOUT_S = 300.0
"""A limit for broken code: no run takes nearly as long."""

_ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
"""Keeps NumPy's BLAS, which nobody here uses, from looking for work on all processors for a tenth of a second."""

_numbers = itertools.count()


class BenchError(Exception):
    """A run failed."""


class Stage:
    """The processes of one run; a context manager that leaves nothing of theirs behind."""

    def __init__(self) -> None:
        self._cleaning = contextlib.ExitStack()
        self._cleaning.callback(self._remove_segments)
        self.directory = Path(self._cleaning.enter_context(tempfile.TemporaryDirectory(prefix="zbuf-bench-")))
        self.name = f"bench-{os.getpid()}-{next(_numbers)}"
        """The name of this run's producer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleaning.close()

    @property
    def place(self) -> dict[str, str]:
        """The arguments of bench.pipeline's functions."""
        return {"name": self.name, "run_dir": str(self.directory)}

    def start(self, command: Sequence[str | os.PathLike[str]]) -> "Running":
        """Start a program; if it is still there at the end of the run, it is killed."""
        errors = self._cleaning.enter_context(tempfile.TemporaryFile("w+", dir=self.directory))  # noqa: SIM115
        process = self._cleaning.enter_context(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,
            )
        )
        self._cleaning.callback(_kill, process)
        return Running(process, errors)

    def call(
        self, function: Callable[..., Mapping[str, float]], *, under: Sequence[str] = (), **arguments: Any
    ) -> "Running":
        """Call a function of one of these modules in a process of its own.

        Args:
            function: returns what JSON can hold.
            under: a program with its arguments that runs the process, such as strace.
            arguments: the function's arguments.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        return self.start([*under, sys.executable, "-m", "bench.child", name, json.dumps(arguments)])

    def _remove_segments(self) -> None:
        for leftover in leftovers(self.name):
            leftover.remove()


def _kill(process: "subprocess.Popen[str]") -> None:
    """Kill it with what it started: a process outlives the strace that runs it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


class Running:
    """A process of a run."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Any) -> None:
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def output(self) -> str:
        """Wait for its end, and return what it printed.

        Raises:
            BenchError: it failed, or takes far too long.
        """
        try:
            printed, _ = self._process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self._process.args!r}: no end after {TIMEOUT_S:.0f} s") from None
        if self._process.returncode:
            self._errors.seek(0)
            raise BenchError(f"{self._process.args!r} failed with {self._process.returncode}: {self._errors.read()}")
        return printed

    def result(self) -> dict[str, float]:
        """Wait for its end, and return what its function returned."""
        found: dict[str, float] = json.loads(self.output())
        return found
