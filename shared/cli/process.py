"""Processes: the signals that end a command, its limits, its parent, and how one command starts the other."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType

_MODULES = {"zbuf": "zbuf", "zbufd": "zbuf.producer"}
"""What `python -m` runs as each of the two commands; no other place names one side to the other."""

_PR_SET_PDEATHSIG = 1
_DESCRIPTORS_IF_UNLIMITED = 65536

_libc = ctypes.CDLL(None, use_errno=True)


# ---- signals --------------------------------------------------------------------------------------------------------


def on_end(stop: Callable[[], object], *more: signal.Signals, again: bool = True) -> None:
    """Call `stop` when SIGINT, SIGTERM, or one of `more` comes for the first time.

    Args:
        stop: called in the main thread, in the middle of anything; it must only leave word that the end is near.
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
        arguments: those of the command.
    """
    return [sys.executable, "-P", "-m", _MODULES[command], *arguments]


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when the one that started it ends (PR_SET_PDEATHSIG).

    To become another user undoes it, so that has to come first. Exits if the parent has ended already.
    """
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


# ---- the kernel -----------------------------------------------------------------------------------------------------


def prctl(option: int, value: int) -> None:
    """Set something about this process with prctl(2); raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise_errno(f"prctl({option}, {value})")


def raise_errno(call: str) -> None:
    """Raise OSError for a call of ctypes that has failed just now."""
    number = ctypes.get_errno()
    raise OSError(number, f"{call}: {os.strerror(number)}")


def raise_descriptor_limit() -> None:
    """Allow this process as many file descriptors as it may have: each reader costs its producer four."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = hard if hard != resource.RLIM_INFINITY else _DESCRIPTORS_IF_UNLIMITED
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
