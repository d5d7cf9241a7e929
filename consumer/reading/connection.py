"""A connection to a producer's control socket, the list of producers, and the wait for one that is away."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from zbuf.shared import control
from zbuf.shared.arguments import checked
from zbuf.shared.closing import Closing
from zbuf.shared.control.rundir import producer_names, search_path, socket_path
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, RunDirectoryError, ValueRefused

_ANSWER_S = 30
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
        directory = _directory_of(name, search_path(run_dir))
        self._socket = _connect(socket_path(directory, name), name, directory)
        self._lock = threading.Lock()
        self._name = name

    def __repr__(self) -> str:
        return f"<zbuf connection to {self._name!r}: {'closed' if self._socket.fileno() < 0 else 'open'}>"

    def request(self, request: control.Request, descriptors: int = 0) -> tuple[control.Answer, list[int]]:
        """Send a request and wait for its answer.

        Args:
            request: what to ask.
            descriptors: how many file descriptors come with the answer.

        Returns:
            The answer, and those file descriptors, which the caller closes.

        Raises:
            Refused: the producer refuses, and says why.
            ControlError: the producer went away, or sent something else.
        """
        with self._lock:
            if self._socket.fileno() < 0:
                raise ControlError("this connection is closed: connect again")
            with contextlib.suppress(ConnectionError):  # it may have said why before it hung up or was killed
                self._socket.send(control.encode(request))
            answer, fds = control.receive_answer(self._socket, descriptors)
        if isinstance(answer, control.Refusal):
            for fd in fds:
                os.close(fd)
            raise Refused(answer.reason)
        return answer, fds

    def stats(self) -> control.Statistics:
        """What the producer says of itself, its descriptors and their readers; each ledger adds up."""
        return cast(control.Statistics, self.request(control.Stats())[0])

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _directory_of(name: str, directories: list[Path]) -> Path:
    """The first directory that has a socket of that name or is closed to us; else the first of all."""
    for directory in directories:
        try:
            socket_path(directory, name).stat()
        except PermissionError:
            return directory
        except OSError:
            continue
        return directory
    return directories[0]


def _connect(path: Path, name: str, directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The kernel's timeouts: Python's would make the socket non-blocking, and connecting to a busy producer fail.
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", _ANSWER_S, 0))
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise ProducerNotFound(_not_found(name, directory, error)) from None
    return connection


def _not_found(name: str, directory: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"producer {name!r}: no permission to use its socket in {directory}: ls -ld shows which group may use it"
    others = ", ".join(other for other in producer_names(directory) if other != name)
    return f"no producer {name!r} runs in {directory}" + (
        f" (there is: {others})" if others else ": start it with zbufd"
    )


@checked
def producers(run_dir: str | os.PathLike[str] | None = None) -> list[control.Statistics]:
    """The statistics of all producers that run, sorted by name."""
    found = []
    directories = search_path(run_dir)
    names: set[str] = set()
    for directory in directories:
        with contextlib.suppress(*([RunDirectoryError] if len(directories) > 1 else [])):
            names.update(producer_names(directory))
    for name in sorted(names):
        with contextlib.suppress(ProducerNotFound, ControlError, ValueRefused), Connection(name, run_dir) as connection:
            found.append(connection.stats())
    return found


# ---- a producer that is away ----------------------------------------------------------------------------------------


def until_next_look(left_s: float | None = None) -> float:
    """How long to wait before the next look for a producer that is away, in seconds; at most `left_s`."""
    return _LOOK_S if left_s is None else min(left_s, _LOOK_S)


def wait_for_producer(look: Callable[[], _Found], seconds: float, check: Callable[[], object] = lambda: None) -> _Found:
    """Call `look` until it finds its producer.

    Args:
        look: needs the producer, as connect() does; raises ProducerNotFound while none runs.
        seconds: how long to keep looking; 0 to look once.
        check: called after each look that finds nothing; an exception from it ends the wait.

    Returns:
        What `look` returns.

    Raises:
        ProducerNotFound: from the last look.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return look()
        except ProducerNotFound:
            check()
            if time.monotonic() >= deadline:
                raise
            time.sleep(until_next_look())
