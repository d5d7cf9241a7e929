"""What the numbers depend on: the machine, what else it did, and the versions of everything."""

import contextlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from bench.native import compile_program
from bench.stage import ROOT, BenchError
from zbuf.producer import filters

_PACKAGES = ("zbuf", "cypcap", "pcapy-ng", "dpkt", "scapy", "pyzmq", "iceoryx2", "numpy", "Cython", "msgspec")
_IDLE = slice(3, 5)  # idle and iowait, of the counters in /proc/stat
_COUNTED = slice(0, 8)  # what guests use is in the user time already
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PROCESSORS = os.cpu_count() or 1


# ---- while it measures ------------------------------------------------------------------------------------------


class Crowd:
    """The share of the processors' time that others took from a run: other processes, and other virtual machines.

    It is a context manager. It does not count what others did on processors that the run left idle.

    Args:
        wanted: how many processors the run keeps busy.
    """

    share = 0.0

    def __init__(self, wanted: int) -> None:
        self._left_over = max(0, _PROCESSORS - wanted) / _PROCESSORS

    def __enter__(self) -> Self:
        self._began = time.monotonic(), _busy_s() - _own_s()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds, busy_s = time.monotonic() - self._began[0], _busy_s() - _own_s() - self._began[1]
        self.share = max(0.0, busy_s / (seconds * _PROCESSORS) - self._left_over)


def _busy_s() -> float:
    counters = [int(counter) for counter in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(counters[_COUNTED]) - sum(counters[_IDLE])) / _TICKS_PER_SECOND


def _own_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class CacheLine:
    """How long a cache line takes to another processor and back.

    This is the price of everything that one processor writes and another reads. The processors of a virtual machine can
    move apart and together again while it runs; then the price changes threefold.

    Args:
        program: the program that measures it; None if it can't be compiled.
    """

    def __init__(self, program: Path | None) -> None:
        self._program = program if len(os.sched_getaffinity(0)) > 1 else None
        self.nearest_ns = float("inf")
        """The shortest time so far."""

    @classmethod
    @contextlib.contextmanager
    def meter(cls) -> Iterator[Self]:
        """A meter with its program, which is removed at the end."""
        with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
            try:
                yield cls(compile_program("cache_line", Path(directory)))
            except BenchError:
                yield cls(None)

    def nanoseconds(self) -> float:
        """Measure it now; 0 if there is no compiler, or no second processor."""
        if self._program is None:
            return 0.0
        taken_ns = float(subprocess.run([self._program], capture_output=True, text=True, check=True).stdout)
        self.nearest_ns = min(self.nearest_ns, taken_ns)
        return taken_ns


# ---- facts ------------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """The versions of zbuf, of its peers, and of what they use."""
    found = {package: _package_version(package) for package in _PACKAGES}
    return found | {
        "python": platform.python_version(),
        "libpcap": filters.version(),
        "cc": _first_line(["cc", "--version"]),
        "strace": _first_line(["strace", "-V"]),
        "tcpreplay": _first_line(["tcpreplay", "-V"]),
        "commit": _first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
    }


def _package_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not there"
    return (done.stdout or done.stderr).partition("\n")[0]
