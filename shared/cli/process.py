"""Processes: the signals that end a command, its limits, its parent, and how one side starts the other."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import FrameType
from typing import Any

_MODULES = {"zbuf": "zbuf", "zbufd": "zbuf.producer"}
"""The module that `python -m` runs for each command; only here does one side know the name of the other."""

_REPLAYING = "zbuf.producer.replaying"
"""What publishes a file for a reader of the same process."""

_PR_SET_PDEATHSIG = 1
_DESCRIPTORS_IF_UNLIMITED = 65536

_libc = ctypes.CDLL(None, use_errno=True)


# ---- signals --------------------------------------------------------------------------------------------------------


def on_end(stop: Callable[[], object], *more: signal.Signals, again: bool = True) -> None:
    """Call `stop` when SIGINT, SIGTERM, or one of `more` comes for the first time.

    Args:
        stop: called in the main thread, in the middle of anything, so it must do little: set a flag, end a wait.
        more: more signals that end this process. SIGHUP stays ignored if nohup(1) had it ignored.
        again: whether the same signal ends the process at once when it comes a second time.
    """

    def answer(number: int, _frame: FrameType | None) -> None:
        if again:
            signal.signal(number, signal.SIG_DFL)
        stop()

    _handle(answer, signal.SIGINT, signal.SIGTERM, *more)


def interrupt_on(*numbers: signal.Signals) -> None:
    """Have signals raise KeyboardInterrupt, as Ctrl-C does, so that `with` blocks clean up.

    SIGHUP stays ignored if nohup(1) had it ignored.
    """
    _handle(signal.default_int_handler, *numbers)


def _handle(handler: Callable[[int, FrameType | None], object], *numbers: signal.Signals) -> None:
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


# ---- the other command ----------------------------------------------------------------------------------------------


def sibling(command: str, *arguments: str) -> list[str]:
    """The command line that runs zbuf or zbufd with this same Python.

    Args:
        command: "zbuf" or "zbufd".
        arguments: the arguments of the command.
    """
    return [sys.executable, "-P", "-m", _MODULES[command], *arguments]


def replaying() -> Any:
    """The producer's module that replays a file within this process: what connect(file=) reads from."""
    return import_module(_REPLAYING)


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when the one that started it ends (PR_SET_PDEATHSIG).

    Becoming another user undoes this, so call it afterwards. Exits if the parent has ended already.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


# ---- the kernel -----------------------------------------------------------------------------------------------------


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process; raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise_errno(f"prctl({option}, {value})")


def raise_errno(call: str) -> None:
    """Raise OSError for a call by ctypes that has just failed."""
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def raise_descriptor_limit() -> None:
    """Raise the limit of file descriptors as far as it may go: each reader takes some of its producer's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = hard if hard != resource.RLIM_INFINITY else _DESCRIPTORS_IF_UNLIMITED
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
