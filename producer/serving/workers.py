"""Threads for what takes long: they are not waited for when the producer ends, nor at the end of the process."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """An executor for asyncio, whose threads are daemons. Python joins those of a ThreadPoolExecutor when it exits.

    Args:
        count: how many calls go on at the same time.
        name: what the threads' names begin with.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, name)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a thread call a function."""
        future: Future[T] = Future()
        self._calls.put(lambda: _carry_out(future, lambda: function(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end once they have nothing to do; nobody waits for that."""
        del wait, cancel_futures
        self._calls.put(self._end)

    def _work(self) -> None:
        while (call := self._calls.get()) != self._end:
            call()
        self._calls.put(self._end)  # for the next of them

    def _end(self) -> None:
        """What tells a thread to end."""


def _carry_out(future: "Future[Any]", call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
