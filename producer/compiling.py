"""Filters of readers, compiled in another process: an expression that somebody else wrote can cost no more than that.

libpcap takes seconds for some expressions, asks name servers for the hosts that others name, and parses in C what a
stranger wrote.  So a process that does nothing else is started early, while that is allowed and cheap, and forks one
more for each expression (zbuf.producer.filter_compiler).  That one has a limit of processor time, of memory and of
wall time, can't open any file or socket, and becomes nobody where it is root's.  What it answers is checked like any
program from outside: see set_program() in zbuf.producer.filters.

One user's expressions wait for each other, in a queue of that user's, and only the first of each queue takes a turn.
"""

import asyncio
import contextlib
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from zbuf.shared.errors import FilterError, Refused

REQUEST = struct.Struct("<I?")
"""The link type, and whether names are looked up; the expression follows."""
EXPRESSION_BYTES_MAX = 1 << 16
PROGRAM, ERROR = b"P", b"E"
"""What an answer begins with."""

CPU_S = 1
"""Processor time that an expression may take to compile, in seconds."""
WALL_S = 10
"""The same in seconds of any kind, among them those that a name server takes."""

_AT_ONCE = 4
_NOW_S = 0.5
_SEPARATE = "import sys; sys.path.insert(0, sys.argv[3]); from zbuf.producer.filter_compiler import main; main()"

Live = tuple[int, str, str | None]
"""A link type, an interface that has it, and the name of the link type that was asked for, as of LiveFilters."""


class TooLong(FilterError):
    """An expression that takes more time to compile than it may take."""


class CompilerProcess:
    """A process that compiles, from now until close().

    Args:
        live: for which link types to compile as LiveFilters does. That takes the rights to capture, and the
            interfaces, when it starts: so this waits until it has opened them.

    Raises:
        Refused: it can't be started.
    """

    def __init__(self, live: Sequence[Live] = ()) -> None:
        self.live = tuple(live)
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        nowhere = subprocess.DEVNULL
        with theirs:
            command = [_python(), "-I", "-S", "-c", _SEPARATE, str(theirs.fileno()), json.dumps(self.live), _path()]
            try:
                self._process = subprocess.Popen(  # noqa: S603  (the command is our own)
                    command, pass_fds=[theirs.fileno()], stdin=nowhere, stdout=nowhere, stderr=nowhere
                )
            except OSError as error:
                self._requests.close()
                raise Refused(f"filters can't be compiled: {command[0]}: {error.strerror}") from None
        if self.live:
            self._requests.recv(1)  # nothing where it ended, since an interface has gone: `runs` tells

    @property
    def runs(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    def ask(self, expression: str, linktype: int, *, names: bool) -> socket.socket:
        """Have an expression compiled; what is returned gives the answer, and then its end, and is the caller's.

        Raises:
            OSError: the process has ended.
        """
        request = REQUEST.pack(linktype, names) + expression.encode("utf-8", "surrogateescape")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._requests, [request], [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return ours

    def close(self) -> None:
        """End it, and what it is compiling."""
        self._requests.close()
        with contextlib.suppress(PermissionError):  # it is root's, and we are not any more: it sees that we closed
            self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """In a forked child: let go of it, and leave it to the parent."""
        self._requests.close()
        self._process.returncode = 0  # it is no child of ours


_prepared: list[CompilerProcess] = []


def prepare(live: Sequence[Live] = ()) -> CompilerProcess:
    """Start a process now that the compilers of this process are to use, since it can't be started later.

    This is for programs that give their privileges up. It must be let go of by dismiss().
    """
    _prepared.append(CompilerProcess(live))
    return _prepared[-1]


def dismiss(process: CompilerProcess) -> None:
    """Undo prepare()."""
    _prepared.remove(process)
    process.close()


class Compiler:
    """Compiles the filters of one producer's readers, in a process that is started with the first of them."""

    def __init__(self) -> None:
        self._own: CompilerProcess | None = None
        self._starting = threading.Lock()
        self._queues: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting: set[asyncio.Task[bytes]] = set()
        self._now_s: defaultdict[int, float] = defaultdict(float)  # by user: how long others have waited
        self._closed = False

    async def compile(self, expression: str, linktype: int, *, uid: int, names: bool) -> bytes:
        """Compile an expression, once those of the same user that came before are done; in the control thread.

        Args:
            expression: not empty.
            linktype: the LINKTYPE_ of the packets.
            uid: the user that it is for.
            names: whether to look names up, of hosts, networks, and services.

        Returns:
            The program; it is not checked yet.

        Raises:
            FilterError: it does not compile; TooLong where that takes too much time.
            Refused: close() was called, or there is no process that compiles.
        """
        task = asyncio.ensure_future(self._take_turn(expression, linktype, uid, names))
        self._waiting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._closed:
                raise Refused("this producer is ending") from None
            raise
        finally:
            self._waiting.discard(task)
            task.cancel()

    async def _take_turn(self, expression: str, linktype: int, uid: int, names: bool) -> bytes:
        queue = self._queues.setdefault(uid, asyncio.Lock())
        async with queue, self._turns:
            with self._ask(expression, linktype, names=names) as answering:
                answering.setblocking(False)
                try:
                    async with asyncio.timeout(WALL_S):
                        return _program(expression, await _read(answering), names=names)
                except TimeoutError:
                    raise _too_long(expression) from None

    def compile_now(self, expression: str, linktype: int, *, uid: int, names: bool) -> bytes:
        """compile(), out of turn, from any thread, while others wait: half a second in all for one user's filters.

        Raises:
            FilterError: it does not compile, or the time is up.
        """
        started_s, left_s = time.monotonic(), _NOW_S - self._now_s[uid]
        if left_s <= 0:
            raise _too_long(expression)
        try:
            with self._ask(expression, linktype, names=names) as answering:
                return _program(expression, _receive(answering, started_s + left_s), names=names)
        except Refused as error:
            raise FilterError(str(error)) from None
        except TimeoutError:
            raise _too_long(expression) from None
        finally:
            self._now_s[uid] += time.monotonic() - started_s

    def close(self) -> None:
        """Compile nothing any more: those who wait are refused; in the control thread."""
        self._closed = True
        for task in self._waiting:
            task.cancel()
        with self._starting:
            if self._own is not None:
                self._own.close()
                self._own = None

    def forget(self) -> None:
        """In a forked child: let go of the process that compiles for the parent."""
        if self._own is not None:
            self._own.forget()

    def _ask(self, expression: str, linktype: int, *, names: bool) -> socket.socket:
        try:
            return self._process().ask(expression, linktype, names=names)
        except OSError as error:
            raise Refused(f"filter '{expression}': what compiles filters has ended: {error.strerror}") from None

    def _process(self) -> CompilerProcess:
        if _prepared:
            return _prepared[-1]
        with self._starting:
            if self._closed:
                raise Refused("this producer is ending")
            if self._own is not None and not self._own.runs:
                self._own.close()
                self._own = None
            self._own = self._own or CompilerProcess()
            return self._own


async def _read(answering: socket.socket) -> bytes:
    loop, answer = asyncio.get_running_loop(), bytearray()
    while data := await loop.sock_recv(answering, 1 << 16):
        answer += data
    return bytes(answer)


def _receive(answering: socket.socket, deadline_s: float) -> bytes:
    answer = bytearray()
    while True:
        answering.settimeout(max(deadline_s - time.monotonic(), 0.001))
        data = answering.recv(1 << 16)
        if not data:
            return bytes(answer)
        answer += data


def _program(expression: str, answer: bytes, *, names: bool) -> bytes:
    """What came back; its process was killed where nothing did."""
    if answer[:1] == PROGRAM:
        return answer[1:]
    if answer[:1] != ERROR:
        raise _too_long(expression)
    why = answer[1:].decode("utf-8", "replace")
    hint = "" if names or ": unknown " not in why else ": names are not looked up for readers: use numbers"
    raise FilterError(why + hint)


def _too_long(expression: str) -> TooLong:
    return TooLong(f"filter of {len(expression)} characters takes more than {CPU_S} s to compile: use a shorter one")


def _python() -> str:
    """The interpreter; a program that embeds Python may not tell it."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return sys.executable or shutil.which(version) or version


def _path() -> str:
    """Where the process finds this package; it loads nothing else but the standard library."""
    return str(Path(__file__).parents[2])
