"""The producer's end of the control socket: it listens, in a thread of its own that runs asyncio.

A client can take its time, send rubbish, or die: none of that reaches the packets, since this thread touches no
descriptor. What one client's connection asks for is in zbuf.producer.serving.session.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zbuf.producer.serving.access import Access
from zbuf.producer.serving.session import Context, Session
from zbuf.shared.errors import ControlError, RunDirectoryError

log = logging.getLogger("zbuf")

_BACKLOG = 64
_WORKERS = 4
"""How many segments are made at the same time."""


class ControlServer:
    """Serves the clients of one producer until stop().

    Args:
        path: of the socket; a socket that a dead producer left there is replaced.
        context: what the clients' sessions share.
        mode: the permissions of the socket.
        gid: the group of the socket; None for the process's own.

    Raises:
        RunDirectoryError: the socket can't be made.
    """

    def __init__(self, path: Path, context: Context, mode: int = 0o600, gid: int | None = None) -> None:
        self._context = context
        self._path = path
        self._socket = _listen(path, mode, gid)
        self._sessions: set[Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="zbuf-control", daemon=True)
        self._thread.start()
        self._ready.wait()

    # ---- from any thread --------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Close every descriptor, then every connection, then the socket."""
        self._soon(self._stopped.set)
        self._thread.join()

    def set_access(self, access: Access) -> None:
        """Change who may see what, now: clients that may see something else than before are hung up on."""
        self._soon(lambda: self._apply_access(access))

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent, so that its clients see when the parent ends."""
        fd = self._socket.detach()
        if fd >= 0:
            os.close(fd)
        for session in self._sessions:
            session.forget()
        self._context.compiler.forget()

    def _soon(self, call: Callable[[], None]) -> None:
        """Have the control thread do something."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call)

    # ---- the control thread -----------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        # An executor of our own: asyncio imports its executor when it first needs one. By then root is dropped, which
        # may have been the only user that can read Python's files.
        self._loop.set_default_executor(ThreadPoolExecutor(_WORKERS, "zbuf-memory"))
        tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._tick())]
        self._ready.set()
        await self._stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.ending = True
        self._context.compiler.close()
        await self._context.command(self._context.roster.close)
        for session in self._sessions:
            session.hang_up()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        self._socket.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._context.roster.tick_s)
            self._context.owner.tick()

    def _apply_access(self, access: Access) -> None:
        self._context.access = access
        for session in self._sessions:
            if not session.may_stay(access):
                log.warning("%s: hung up on: the allow list has changed", session.peer)
                session.hang_up()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError:  # out of file descriptors, or the client was gone already
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            session = Session(self._context, connection)
        except OSError:  # the kernel does not tell who connected
            connection.close()
            return
        self._sessions.add(session)
        try:
            self._context.roster.limits.check_connection(len(self._sessions))
            await session.serve()
        except ControlError as error:  # not logged: a client that sends rubbish may send a lot of it
            self._context.roster.refused += 1
            session.refuse(str(error))
        except OSError:
            pass  # the client is gone, or does not read its answers
        except Exception:
            log.exception("a request failed, and its connection is closed: this is a bug of zbuf")
            session.refuse("the producer failed at this request: its log says how")
        finally:
            self._sessions.discard(session)
            await session.close()


def _listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)  # the name is ours: we hold its lock
        listening.bind(str(path))
        path.chmod(0o600)
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise RunDirectoryError(f"control socket {path}: {error.strerror}: choose another --run-dir") from None
    return listening
