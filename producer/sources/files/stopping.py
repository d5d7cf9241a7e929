"""How work that may wait for ever, for a pipe that nobody writes to, comes to its end.

A thread that sits in libpcap notices no signal, and Python runs the handlers of signals in the main thread alone.  So
such work is done in a thread of its own, and whatever it waits for, it waits for a Stop as well.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class Stop:
    """Something to wait for beside a file: from set() on, its fileno() is readable for good."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Its file descriptor, for poll(2)."""
        return self._fd

    def set(self) -> None:
        """End all waiting; from any thread."""
        os.eventfd_write(self._fd, 1)

    @property
    def is_set(self) -> bool:
        """Whether set() was called."""
        return bool(select.select([self._fd], [], [], 0)[0])

    @property
    def is_closed(self) -> bool:
        """Whether close() was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close it, once nobody waits for it any more. Again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def start_deaf(thread: threading.Thread) -> None:
    """Start a thread whose waits no signal interrupts; nor those of threads that it starts.

    Threads inherit what is blocked. A signal that comes meanwhile is handled here, once the thread has started.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def interruptibly(work: Callable[[Stop], T], stop: Stop | None = None) -> T:
    """Do `work` in a thread; where a signal's handler raises meanwhile, set its Stop, wait for its end, and raise.

    Args:
        work: called with the Stop.
        stop: what it is; by default a new one, which is closed behind.
    """
    with contextlib.ExitStack() as closing:
        return _do(work, closing.enter_context(Stop()) if stop is None else stop)


def _do(work: Callable[[Stop], T], stop: Stop) -> T:
    results: list[T] = []
    errors: list[BaseException] = []
    over = threading.Event()  # since Thread.join() of Python 3.11, once interrupted, takes the thread for ended

    def run() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:
            errors.append(error)
        finally:
            over.set()

    thread = threading.Thread(target=run, name="zbuf-load", daemon=True)
    try:
        start_deaf(thread)
        over.wait()
    except BaseException:
        stop.set()
        if thread.ident is not None:
            over.wait()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
