"""The right to touch descriptors.

Descriptors have no locks. One thread at a time may touch them: the one that holds the right. While the pump runs, its
thread holds it, for millions of packets at a time. All others hand in a command, which interrupts the pump, so that its
thread comes back and carries the command out. While nothing runs, the thread that hands a command in takes the right
and carries it out itself.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from zbuf.producer.ring.pump import Pump
from zbuf.shared.errors import Refused

if TYPE_CHECKING:
    from zbuf.producer.ring.contract import NativeSource

T = TypeVar("T")


class Owner:
    """Runs the pump, and carries out commands and ticks between its packets; never two of them at a time.

    Args:
        pump: feeds the descriptors; nobody else runs it.
        on_tick: called with the right, after each tick().
    """

    def __init__(self, pump: Pump, on_tick: Callable[[], None]) -> None:
        self.pump = pump
        self.stopping = False
        """Whether stop() was called."""
        self._on_tick = on_tick
        self._tick_due = False
        self._right = threading.Lock()
        self._commands: deque[tuple[Callable[[], object], Future[object]]] = deque()

    # ---- commands and ticks, from any thread ------------------------------------------------------------------------

    def submit(self, command: Callable[[], T]) -> "Future[T]":
        """Have `command` carried out by whoever has the right; the future has its result, or its exception."""
        future: Future[T] = Future()
        self._commands.append((command, future))  # type: ignore[arg-type]
        self._interrupt()
        return future

    def tick(self) -> None:
        """Let time pass for the descriptors: their read timeouts run."""
        self._tick_due = True
        self._interrupt()

    def stop(self) -> None:
        """Make run() and append() return soon; also from a signal handler."""
        self.stopping = True
        self.pump.interrupt()

    def _interrupt(self) -> None:
        self.pump.interrupt()
        self._serve_if_idle()

    def _serve_if_idle(self) -> None:
        """Serve here, unless somebody has the right: they will see what there is before they give it up."""
        while (self._commands or self._tick_due) and self._right.acquire(blocking=False):
            try:
                self._serve()
            finally:
                self._right.release()

    def _serve(self) -> None:
        if self._tick_due:
            self._tick_due = False
            self._on_tick()
        while self._commands:
            _carry_out(*self._commands.popleft())

    # ---- packets, from one thread -----------------------------------------------------------------------------------

    def run(self, source: "NativeSource", on_interfaces: Callable[[], None] = lambda: None) -> bool:
        """Pump a native source to its end; False if stop() came first.

        Args:
            source: what to pump.
            on_interfaces: called with the right, when packets of new interfaces follow: announces them.
        """
        ended = False
        while not ended and not self.stopping:
            with self._right:
                self._serve()
                ended = self.pump.run(source)
                if self.pump.interfaces_appeared:
                    on_interfaces()
            self._serve_if_idle()
        if not ended:
            self._cancel()
        return ended

    def append(self, data: bytes, time_ns: int, wirelen: int | None, interface: int, direction: int) -> bool:
        """Feed one packet to all descriptors; False if stop() came before all had room for it."""
        with self._right:
            done = self.pump.offer(data, time_ns, wirelen, interface, direction)
        while not done and not self.stopping:
            self._serve_if_idle()
            with self._right:
                done = self.pump.resume()
        if not done:
            self._cancel()
        self._serve_if_idle()
        return done

    def _cancel(self) -> None:
        with self._right:
            self.pump.cancel()
        self._serve_if_idle()


def _carry_out(command: Callable[[], object], future: "Future[object]") -> None:
    if not future.set_running_or_notify_cancel():
        return  # whoever asked for it has gone
    try:
        result = command()
    except Exception as error:
        future.set_exception(error)
    except BaseException:  # Ctrl-C in the middle of somebody else's request: it is ours, not theirs
        future.set_exception(Refused("the producer was interrupted"))
        raise
    else:
        future.set_result(result)
