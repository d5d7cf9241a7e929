"""The producer's end of the control socket: it listens, in a thread of its own that runs asyncio.

A client can take its time, send rubbish, or die: none of that reaches the packets, since this thread touches no
descriptor, and time passes for those in another (zbuf.producer.serving.ticks). What one client's connection asks for
is in zbuf.producer.serving.session.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from zbuf.producer.serving.access import Access, Peer
from zbuf.producer.serving.peer_socket import PeerSocket, refuse_rights, until_readable
from zbuf.producer.serving.session import Context, NotAllowed, Session
from zbuf.producer.serving.shares import Booking
from zbuf.producer.serving.workers import Workers
from zbuf.shared.errors import ControlError, Refused, RunDirectoryError

log = logging.getLogger("zbuf")

_BACKLOG = 64
_WORKERS = 4
"""How many segments are made at the same time."""
_GOODBYE_S, _END_S = 0.25, 0.5


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
        """Close every descriptor, then every connection, then the socket; in bounded time, whatever clients do."""
        self._context.owner.submit(self._context.roster.close).result()
        self._path.unlink(missing_ok=True)
        self._soon(self._stopped.set)
        self._thread.join(_END_S)

    def answers(self, timeout_s: float) -> bool:
        """Whether the thread that talks to clients does something for us within a time."""
        answered = threading.Event()
        self._soon(answered.set)
        return answered.wait(timeout_s)

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

    def _soon(self, call: Callable[[], object]) -> None:
        """Have the control thread do something."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call)

    # ---- the control thread -----------------------------------------------------------------------------------------

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        # An executor of our own: asyncio imports its executor when it first needs one. By then root is dropped, which
        # may have been the only user that can read Python's files.
        self._loop.set_default_executor(Workers(_WORKERS, "zbuf-memory"))
        accepting = asyncio.create_task(self._accept())
        self._ready.set()
        await self._stopped.wait()
        self._context.compiler.close()
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        self._close_socket()
        for session in self._sessions:
            session.hang_up()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE_S)  # asyncio.run() cancels those that are left

    def _close_socket(self) -> None:
        """Hang up on those who wait in the backlog, as on any client: closing the socket closes theirs."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
            while True:
                PeerSocket(self._socket.accept()[0]).close(lambda: None)
        self._socket.close()

    def _apply_access(self, access: Access) -> None:
        self._context.access = access
        for session in self._sessions:
            if not session.may_stay(access):
                log.warning("%s: hung up on: the allow list has changed", session.peer)
                session.hang_up()

    async def _accept(self) -> None:
        while True:
            await until_readable(self._socket)
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError:  # out of file descriptors, or the client was gone already
                await asyncio.sleep(0.1)
                continue
            self._meet(connection)

    def _meet(self, connection: socket.socket) -> None:
        """Serve a client, if there is room for one more connection of its user."""
        client = PeerSocket(connection)
        try:
            peer = Peer.of(connection)
        except OSError:  # the kernel does not tell who connected
            client.close(lambda: None)
            return
        session = Session(self._context, client, peer)
        try:
            booking = self._context.roster.shares.book(peer.uid, connections=1, files=1)
        except Refused as error:
            self._refuse(session, str(error))
            client.close(lambda: None)
            return
        task = asyncio.create_task(self._serve(session, client, booking))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, session: Session, client: PeerSocket, booking: Booking) -> None:
        self._sessions.add(session)
        try:
            await session.serve()
        except NotAllowed as error:
            self._refuse(session, str(error), "not on the allow list", logging.WARNING)
        except ControlError as error:
            self._refuse(session, str(error))
        except OSError:
            pass  # the client is gone, or does not read its answers
        except Exception:
            log.exception("a request failed, and its connection is closed: this is a bug of zbuf")
            session.refuse("the producer failed at this request: its log says how")
        finally:
            self._sessions.discard(session)
            client.close(booking.release)
            await session.close()

    def _refuse(self, session: Session, reason: str, logged: str | None = None, level: int = logging.INFO) -> None:
        """Tell a client why its connection ends, and log it; in other words, where there are some."""
        roster = self._context.roster
        roster.refused += 1
        session.refuse(reason)
        roster.refusals.note(session.peer.uid, session.peer, logged or "connection", logged or reason, level)


def _listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        refuse_rights(listening)
        path.unlink(missing_ok=True)  # the name is ours: we hold its lock
        listening.bind(str(path))
        path.chmod(0o600)
        if gid is not None and path.stat().st_gid != gid:  # it has the group of its directory, where that is possible
            os.chown(path, -1, gid)
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise RunDirectoryError(f"control socket {path}: {error.strerror}: choose another --run-dir") from None
    return listening
