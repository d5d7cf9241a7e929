"""Where a run happens: a directory, a producer's name, and processes that don't outlive it.

Every run has new processes. How a process's memory happens to lie changes its speed by some percent, for as long as it
lives; the median over several processes is free of that.
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
"""The top of the repository, from where ``bench`` can be imported."""

TIMEOUT_S = 300.0
"""For broken code only: no run takes nearly as long."""

_ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
"""NumPy's BLAS, which nobody here uses, would have threads look for work on all processors for a tenth of a second."""

_numbers = itertools.count()


class BenchError(Exception):
    """A run came to nothing."""


class Stage:
    """The processes of one run and all that they make; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._cleaning = contextlib.ExitStack()
        self._cleaning.callback(self._remove_segments)
        self.directory = Path(self._cleaning.enter_context(tempfile.TemporaryDirectory(prefix="zbuf-bench-")))
        self.name = f"bench-{os.getpid()}-{next(_numbers)}"
        """For the producer of this run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleaning.close()

    @property
    def place(self) -> dict[str, str]:
        """What the functions of bench.pipeline want to know of it."""
        return {"name": self.name, "run_dir": str(self.directory)}

    def start(self, command: Sequence[str | os.PathLike[str]]) -> "Running":
        """Start a program; it is killed at the end of the run, should it still be there."""
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
            function: it returns what JSON can hold.
            under: a program, with its arguments, that runs that process, strace for one.
            arguments: the function's.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        return self.start([*under, sys.executable, "-m", "bench.child", name, json.dumps(arguments)])

    def _remove_segments(self) -> None:
        for leftover in leftovers(self.name):
            leftover.remove()


def _kill(process: "subprocess.Popen[str]") -> None:
    """With what it started: a process outlives the strace that runs it."""
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
        """What the function that it called returned."""
        found: dict[str, float] = json.loads(self.output())
        return found
