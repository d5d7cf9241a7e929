"""Python processes that carry out what a test tells them.

Starting Python and importing everything takes a third of a second.  So one process, the nursery, does that once, and
forks whenever a test asks.  What it forks is a process like any other: with memory and file descriptors of its own, and
it can be killed.  It ends when the test's end of its socket is closed, whichever way the test ends.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIMIT_S = 20
"""A limit for broken code only: working code answers at once."""


# ---- numbered packets -----------------------------------------------------------------------------------------------


def numbered(number: int, size: int = 60) -> bytes:
    """A packet that holds its number, and whose other bytes all depend on it."""
    return struct.pack("<Q", number) + bytes([number & 0xFF]) * (size - 8)


def number_of(data: Any) -> int:
    """The number in a packet of numbered(), which must be whole."""
    number: int = struct.unpack_from("<Q", data)[0]
    assert bytes(data) == numbered(number, len(data)), f"packet {number} is damaged"
    return number


def take_all(reader: Any) -> list[int]:
    """The numbers of all packets to the end of the stream."""
    return [number_of(bytes(packet)) for packet in reader]


def take(reader: Any, count: int, seconds: float = LIMIT_S) -> list[int]:
    """The numbers of the next packets, buffer by buffer, until there are `count` or more."""
    found: list[int] = []
    while len(found) < count:
        buffer = reader.next_buffer(timeout=seconds)
        assert buffer is not None, f"{len(found)} packets came, {count} were to: {reader.end_reason}"
        found += [number_of(bytes(packet)) for packet in buffer]
    return found


def open_fds(pid: int | str = "self") -> int:
    """How many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_stopped(pid: int) -> None:
    """Wait until all threads of a process are stopped, which a signal does not do at once."""
    limit = time.monotonic() + LIMIT_S
    while any(one.read_text().rsplit(")", 1)[1].split()[0] != "T" for one in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < limit, "it does not stop"


# ---- a Python process -----------------------------------------------------------------------------------------------


class Remote:
    """A Python process that carries out statements, one after the other; variables stay from one to the next.

    It has the names of _prelude(), such as Producer and connect, and the functions above.
    """

    def __init__(self, nursery: socket.socket) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(nursery, [b"+"], [theirs.fileno()])
        self.pid = int.from_bytes(nursery.recv(8), "little")
        self._pidfd = os.pidfd_open(self.pid)
        self._connection = Connection(ours.detach())
        self.do("import os; os.environ.update(environment)", environment=dict(os.environ))

    def begin(self, code: str, **names: Any) -> None:
        """Start an expression, or statements; `names` are set first."""
        self._connection.send((code, names))

    def result(self, seconds: float = LIMIT_S) -> Any:
        """Wait for the outcome of begin(): returns the expression's value, or raises its exception."""
        assert self._connection.poll(seconds), "the other process does not come to an end with it"
        done, answer = self._connection.recv()
        if not done:
            raise answer
        return answer

    def ask(self, code: str, **names: Any) -> Any:
        """Evaluate an expression: begin() and result()."""
        self.begin(code, **names)
        return self.result()

    def do(self, code: str, **names: Any) -> None:
        """Carry out statements, which have no value."""
        self.ask(code, **names)

    @property
    def fds(self) -> int:
        """How many file descriptors the process has open."""
        return open_fds(self.pid)

    def signal(self, number: int) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def wait_end(self) -> None:
        """Wait until it is dead."""
        assert select.select([self._pidfd], [], [], LIMIT_S)[0], "the other process does not end"

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.wait_end()

    def close(self) -> None:
        """Kill the process, unless it is dead already."""
        self.kill()
        self._connection.close()
        os.close(self._pidfd)


class Nursery:
    """The process that forks Remotes."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        command = [sys.executable, __file__, str(theirs.fileno())]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # it forks, so it must have only one thread
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)

    def fork(self) -> Remote:
        return Remote(self._socket)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(LIMIT_S)


def _nurse(control: socket.socket) -> None:
    """Run the nursery: fork whenever asked, until the other end closes."""
    names = _prelude()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs us in the background has it ignored
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: see Remote.wait_end()
    while True:
        message, fds, *_ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _obey(Connection(fds[0]), names)
            os._exit(0)
        os.close(fds[0])
        control.send(pid.to_bytes(8, "little"))


def _prelude() -> dict[str, Any]:
    """The names that every Remote has without importing them."""
    import threading

    import numpy as np

    from zbuf.consumer import connect, producers
    from zbuf.producer import FileSource, Producer, RawPacket, ScapySource
    from zbuf.producer.serving.limits import Limits

    own = {name: globals()[name] for name in ("numbered", "number_of", "take", "take_all", "open_fds")}
    return (
        own
        | {
            one.__name__: one
            for one in (connect, producers, FileSource, Producer, RawPacket, ScapySource, Limits, threading, os, signal)
        }
        | {"np": np}
    )


def _obey(connection: Connection, names: dict[str, Any]) -> None:
    while True:
        try:
            code, given = connection.recv()
        except EOFError:
            return
        names.update(given)
        try:
            connection.send((True, _carry_out(code, names)))
        except BaseException as error:
            traceback.print_exc()  # shown with the failure of the test
            connection.send((False, error))


def _carry_out(code: str, names: dict[str, Any]) -> Any:
    code = textwrap.dedent(code).strip()
    try:
        program = compile(code, "<test>", "eval")
    except SyntaxError:
        exec(compile(code, "<test>", "exec"), names)  # noqa: S102  (the test wrote it)
        return None
    return eval(program, names)  # noqa: S307


class Lab:
    """A producer in a process of its own.

    Args:
        process: the process.
        name: the name of the producer.
        options: more options of the producer.
    """

    def __init__(self, process: Remote, name: str, **options: Any) -> None:
        self.process = process
        self.name = name
        self._next = 0
        process.do("producer = Producer(name, **options)", name=name, options={"linger_s": 0} | options)

    def append(self, count: int = 1, *, size: int = 60, **options: Any) -> list[int]:
        """Append packets with the next numbers, and return the numbers."""
        numbers = list(range(self._next, self._next + count))
        self._next += count
        code = "for number in numbers: producer.append(numbered(number, size), **options)"
        self.process.do(code, numbers=numbers, size=size, options=options)
        return numbers

    def close(self) -> None:
        self.process.do("producer.close()")

    def kill(self) -> None:
        self.process.kill()

    def descriptors(self) -> list[Any]:
        """The statistics of the open descriptors."""
        found: list[Any] = self.process.ask("producer.stats().descriptors")
        return found

    def wait_descriptors(self, count: int) -> None:
        """Wait until the producer has so many: it notices a moment later that a reader has left."""
        self._wait(lambda: len(self.descriptors()), count, "descriptors")

    def wait_fds(self, count: int) -> None:
        """Wait until the process has so many file descriptors open."""
        self._wait(lambda: self.process.fds, count, "file descriptors")

    def _wait(self, look: Callable[[], int], count: int, what: str) -> None:
        limit = time.monotonic() + LIMIT_S
        while (found := look()) != count:
            assert time.monotonic() < limit, f"{found} {what}, not {count}"


if __name__ == "__main__":
    _nurse(socket.socket(fileno=int(sys.argv[1])))
