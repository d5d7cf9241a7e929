"""zbuf top: a live view of captures on a terminal, as text in a file, or as JSON for a program."""

import contextlib
import io
import itertools
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from zbuf.consumer.tools.top.view import Screenful, json_line, report
from zbuf.consumer.tools.top.watch import Captures, Seen
from zbuf.shared.cli.options import RunDir, complete_producer, whole_number
from zbuf.shared.closing import Closing
from zbuf.shared.errors import ProducerNotFound, ZbufError
from zbuf.shared.patience import log as waits

_DELAY_MIN_S, _DELAY_MAX_S = 0.1, 86_400.0

Event = Literal["due", "resized", "suspended", "over"]


def _delay(text: str | float) -> float:
    """Parse --delay; the lower bound keeps producers from being asked all the time."""
    try:
        delay = float(text)
    except ValueError:
        delay = 0.0
    if not _DELAY_MIN_S <= delay <= _DELAY_MAX_S:
        raise typer.BadParameter(f"{text!r} is not a number of seconds, from {_DELAY_MIN_S} to {_DELAY_MAX_S:.0f}")
    return delay


def top(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...", help="The producers to watch [all that run].", autocompletion=complete_producer
        ),
    ] = None,
    delay: Annotated[
        float, typer.Option("-d", "--delay", parser=_delay, metavar="SECONDS", help="Time between updates.")
    ] = 1,
    count: Annotated[
        int | None, typer.Option("-n", "--count", parser=whole_number(1), metavar="N", help="End after N updates.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one update after one delay, and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each update.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Watch captures: their packets, drops and buffers, and which readers are slow; q quits.

    A "!" marks packets that are being lost, and who loses them. Off a terminal, it prints one table after the other.
    """
    if once and count is not None:
        raise typer.BadParameter("--once prints one update: leave out --count")
    if isinstance(sys.stdout, io.TextIOWrapper):  # a process may have a name that this terminal can't write
        sys.stdout.reconfigure(errors="backslashreplace")
    waits.disabled = True  # each update tells who has not answered
    with Captures(names or [], run_dir) as captures:
        if not (once or json) and sys.stdout.isatty() and not Console().is_dumb_terminal:
            _show(captures, delay, count)
        else:
            sample = (lambda: _all_there(captures.update())) if once else captures.update
            last = _print(sample, _write_json if json else _write_report, delay, 1 if once else count)
            _check_end(last if names else [])


def _updates(count: int | None) -> Iterator[int]:
    return itertools.count() if count is None else iter(range(count))


def _all_there(seen: Sequence[Seen]) -> Sequence[Seen]:
    """Raise ProducerNotFound if a named producer does not run."""
    for one in seen:
        if one.missing:
            raise ProducerNotFound(one.problem)
    return seen


def _check_end(last: Sequence[Seen]) -> None:
    """Raise ZbufError if a named producer was not there, or did not answer, when the last update came."""
    for one in last:
        if one.problem:
            raise ZbufError(one.problem if one.missing else f"{one.name} {one.problem}")


# ---- printed --------------------------------------------------------------------------------------------------------


def _print(
    sample: Callable[[], Sequence[Seen]], write: Callable[[Sequence[Seen]], None], delay: float, count: int | None
) -> Sequence[Seen]:
    """Print updates. A first sample, which is not printed, is there so that the first update has rates.

    Returns:
        The last update; nothing where a signal came before that.
    """
    seen: Sequence[Seen] = []
    with Waiting() as waiting:
        due = time.monotonic() + delay
        sample()
        for _ in _updates(count):
            if waiting.wait(due) == "over":
                return []
            due = time.monotonic() + delay
            seen = sample()
            write(seen)
            sys.stdout.flush()
    return seen


def _write_json(seen: Sequence[Seen]) -> None:
    sys.stdout.write(json_line(seen))


def _write_report(seen: Sequence[Seen]) -> None:
    """Print whole lines; a terminal wraps long ones, so that nothing is lost."""
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{line.plain}\n" for line in [*report(seen), Text()])
        return
    console = Console(highlight=False, markup=False)
    for line in report(seen):
        console.print(line, soft_wrap=True)


# ---- on a terminal --------------------------------------------------------------------------------------------------


def _show(captures: Captures, delay: float, count: int | None) -> None:
    """Show updates on the terminal's alternate screen, each for `delay` seconds."""
    updates = _updates(count)
    while _show_until_suspended(captures, delay, updates):
        signal.raise_signal(signal.SIGSTOP)  # and go on from here


def _show_until_suspended(captures: Captures, delay: float, updates: Iterator[int]) -> bool:
    """Show updates until the end or Ctrl-Z; restores the terminal, and returns whether it was Ctrl-Z."""
    from rich.live import Live

    console = Console(highlight=False, markup=False)
    with (
        Waiting(signal.SIGWINCH, signal.SIGTSTP) as waiting,
        _keys() as keys,
        Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live,
    ):
        for _ in updates:
            due = time.monotonic() + delay
            live.update(Screenful(captures.update(), delay), refresh=True)
            while (event := waiting.wait(due, keys)) == "resized":
                live.refresh()
            if event != "due":
                return event == "suspended"
    return False


@contextlib.contextmanager
def _keys() -> Iterator[int | None]:
    """The file descriptor for keys, which come one by one and are not echoed; None if stdin is not a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        yield None
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Waiting(Closing):
    """Waits until a key or a signal comes. From its construction on, signals do nothing else.

    Args:
        numbers: more signals, besides SIGINT and SIGTERM.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, *numbers):
            signal.signal(number, lambda *_: None)

    def close(self) -> None:
        """Give the pipe back; signals still do nothing."""
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)

    def wait(self, until_s: float, keys: int | None = None) -> Event:
        """Wait until a moment, in seconds of time.monotonic(), until a signal, or until q is typed."""
        sources = [self._reading] if keys is None else [self._reading, keys]
        while True:
            left = until_s - time.monotonic()
            ready, _, _ = select.select(sources, [], [], max(0.0, left))
            if self._reading in ready:
                return _event(os.read(self._reading, 4096))
            if not ready:
                return "due"
            typed = _typed(keys)
            if not typed or b"q" in typed.lower():
                return "over"


def _event(numbers: bytes) -> Event:
    """What the signals ask for; the end comes first."""
    if signal.SIGINT in numbers or signal.SIGTERM in numbers:
        return "over"
    return "suspended" if signal.SIGTSTP in numbers else "resized"


def _typed(keys: int | None) -> bytes:
    """The keys that were typed; nothing if the terminal has hung up."""
    try:
        return os.read(keys, 4096) if keys is not None else b""
    except OSError:
        return b""
