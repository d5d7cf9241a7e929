"""A connection to a producer's control socket, the list of producers, and the wait for one that is away."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from select import POLLIN, poll
from typing import TypeVar, cast

from zbuf.shared import control
from zbuf.shared.arguments import checked
from zbuf.shared.closing import Closing
from zbuf.shared.control.rundir import every_directory, search_path
from zbuf.shared.control.rundir_look import connect_to, producer_names
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, RunDirectoryError, ValueRefused
from zbuf.shared.names import check_name, printable
from zbuf.shared.patience import Patience

_ANSWERS: dict[type[control.Request], type[control.Answer]] = {
    control.Connect: control.Connected,
    control.Stats: control.Statistics,
}
"""What answers a request; Done, the others."""
_ANSWER_S = 30
_REASON_LENGTH = 2000
_LOOK_S = 0.05  # between two looks for a producer that is away: nothing rings when it comes

_Found = TypeVar("_Found")


class Connection(Closing):
    """A control connection to the producer `name`.

    Args:
        name: the producer's.
        run_dir: where its socket is; see zbuf.shared.control.rundir.search_path().

    Raises:
        ProducerNotFound: no producer of that name runs, or it does not answer.
    """

    @checked
    def __init__(self, name: str, run_dir: str | os.PathLike[str] | None = None) -> None:
        self._name = name
        self._socket = _connect(name, run_dir)
        self._lock = threading.Lock()
        self._name = name

    def __repr__(self) -> str:
        return f"<zbuf connection to {self._name!r}: {'closed' if self._socket.fileno() < 0 else 'open'}>"

    @classmethod
    def over(cls, name: str, connected: socket.socket) -> "Connection":
        """A connection to the producer `name` over a socket that is connected already, and becomes its own."""
        connection = cls.__new__(cls)
        connection._name = name
        connection._socket = connected
        connection._lock = threading.Lock()
        return connection

    def request(self, request: control.Request, descriptors: int = 0) -> tuple[control.Answer, list[int]]:
        """Send a request and wait for its answer.

        Args:
            request: what to ask.
            descriptors: how many file descriptors come with the answer.

        Returns:
            The answer, and those file descriptors, which the caller closes.

        Raises:
            Refused: the producer refuses, and says why.
            ControlError: the producer went away, or sent anything else than an answer to this request, with as many
                file descriptors.
        """
        with self._lock:
            if self._socket.fileno() < 0:
                raise ControlError("this connection is closed: connect again")
            with contextlib.suppress(ConnectionError):  # it may have said why before it hung up or was killed
                self._send(control.encode(request))
            self._await_answer()
            answer, fds = control.receive_answer(self._socket, descriptors)
        try:
            _check_answer(request, answer, len(fds), descriptors)
        except ControlError:
            for fd in fds:
                os.close(fd)
            raise
        return answer, fds

    def _await_answer(self) -> None:
        """Come back when the answer is there, or once its delay was told: see zbuf.shared.patience."""
        patience = Patience(lambda: f"waiting for producer {self._name!r} to answer, {_ANSWER_S} s at most")
        polled = poll()
        polled.register(self._socket, POLLIN)
        if not polled.poll(patience.left_s * 1000):
            patience.tell()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except BlockingIOError:
            raise ControlError("the producer does not read its requests: is it stopped?") from None

    def stats(self) -> control.Statistics:
        """What the producer says of itself, its descriptors and their readers; each ledger adds up."""
        return cast(control.Statistics, self.request(control.Stats())[0])

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _check_answer(request: control.Request, answer: control.Answer, fds: int, wanted_fds: int) -> None:
    """Raise ControlError where it is a refusal, or no answer to this request."""
    if isinstance(answer, control.Refusal):
        raise Refused(printable(answer.reason[:_REASON_LENGTH]))
    if type(answer) is not _ANSWERS.get(type(request), control.Done) or fds != wanted_fds:
        what, got = type(request).__name__.lower(), type(answer).__name__.lower()
        raise ControlError(
            f"unexpected answer to {what}: {got} with {fds} file descriptors: is this a zbuf producer, and of the "
            "same version?"
        )


def _connect(name: str, run_dir: str | os.PathLike[str] | None) -> socket.socket:
    """Connect to the first living producer of that name on the search path."""
    check_name(name)
    directories = search_path(run_dir)
    closed = None
    for directory in directories:
        try:
            return connect_to(directory, name, _ANSWER_S)
        except PermissionError:
            closed = closed or directory
        except OSError:
            continue
    raise ProducerNotFound(_not_found(name, directories, closed, run_dir))


def _not_found(name: str, directories: list[Path], closed: Path | None, run_dir: str | os.PathLike[str] | None) -> str:
    if closed is not None:
        return f"producer {name!r}: no permission to use its socket in {closed}: ls -ld shows which group may use it"
    where = " or ".join(map(str, directories))
    for other in every_directory(run_dir):
        if other not in directories and name in _names_in(other):
            return f"no producer {name!r} runs in {where}: there is one of another user's: give --run-dir {other}"
    others = ", ".join(sorted({other for directory in directories for other in _names_in(directory)} - {name}))
    return f"no producer {name!r} runs in {where}" + (f" (there is: {others})" if others else ": start it with zbufd")


def _names_in(directory: Path) -> list[str]:
    with contextlib.suppress(RunDirectoryError):
        return producer_names(directory)
    return []


@checked
def producers(run_dir: str | os.PathLike[str] | None = None) -> list[control.Statistics]:
    """The statistics of all producers on the search path that run and let this user look, sorted by name."""
    found = []
    for name in sorted({name for directory in search_path(run_dir) for name in _names_in(directory)}):
        with contextlib.suppress(ProducerNotFound, ControlError, ValueRefused), Connection(name, run_dir) as connection:
            found.append(connection.stats())
    return found


# ---- a producer that is away ----------------------------------------------------------------------------------------


def until_next_look(left_s: float | None = None) -> float:
    """How long to wait before the next look for a producer that is away, in seconds; at most `left_s`."""
    return _LOOK_S if left_s is None else min(left_s, _LOOK_S)


def wait_for_producer(
    look: Callable[[], _Found],
    seconds: float,
    check: Callable[[], object] = lambda: None,
    whom: str = "a producer to start",
) -> _Found:
    """Call `look` until it finds its producer.

    Args:
        look: needs the producer, as connect() does; raises ProducerNotFound while none runs.
        seconds: how long to keep looking; 0 to look once.
        check: called after each look that finds nothing; an exception from it ends the wait.
        whom: what is waited for, to be told when it takes long.

    Returns:
        What `look` returns.

    Raises:
        ProducerNotFound: from the last look.
    """
    deadline = time.monotonic() + seconds
    patience = Patience(lambda: f"waiting for {whom}, {deadline - time.monotonic():.0f} s more at most")
    while True:
        try:
            return look()
        except ProducerNotFound:
            check()
            if time.monotonic() >= deadline:
                raise
            patience.tell()
            time.sleep(until_next_look())
