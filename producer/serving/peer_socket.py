"""The socket of one client, which may do its worst: nothing here waits for it.

What a client sends along with a request can cost whoever closes it: the close() of a socket with unsent data and
SO_LINGER waits, and so may that of a file on a file system that the client runs. The last one to have such a file
descriptor is whoever takes the message from the queue, or closes the socket with the message still in there. So, where
the kernel can (Linux 6.16, SO_PASSRIGHTS), nobody can send any; elsewhere we look at each message before we take it,
leave those with file descriptors in the queue, and have a thread of its own close that socket.
"""

import asyncio
import contextlib
import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Callable

from zbuf.shared import control
from zbuf.shared.errors import ControlError

_SO_PASSRIGHTS = 83
_CREDENTIALS_BYTES = socket.CMSG_SPACE(struct.calcsize("3i"))
_DRAINED_MAX = 64
_SEND_S = 10.0


def refuse_rights(listening: socket.socket) -> bool:
    """Have the kernel refuse messages with file descriptors to the clients of a listening socket, where it can."""
    with contextlib.suppress(OSError):  # ENOPROTOOPT: an older kernel
        listening.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        return True
    return False


class PeerSocket:
    """One client's socket, used in the thread of one asyncio loop.

    Args:
        connection: what accept() returned; closed in the end.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setblocking(False)
        # With its credentials, a message without bytes is told from the end of the stream, which has none.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    # ---- messages ---------------------------------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """The next request; no bytes at the end.

        Raises:
            ControlError: file descriptors come with it.
            OSError: the client is gone.
        """
        await until_readable(self._socket)
        data, _, brings_files = self._look(control.REQUEST_BYTES_MAX + 1)
        if brings_files:
            raise ControlError("file descriptors came with a request: send none")
        self._socket.recv(1)
        return data

    def _look(self, length: int) -> tuple[bytes, bool, bool]:
        """The next message, which stays where it is: its bytes, whether there is one, and whether it brings files."""
        data, ancillary, flags, _ = self._socket.recvmsg(length, _CREDENTIALS_BYTES, socket.MSG_PEEK)
        return data, bool(data or ancillary), bool(flags & socket.MSG_CTRUNC)

    async def send(self, data: bytes, fds: list[int]) -> None:
        """Send an answer; in parts where the socket does not take it in one piece.

        Raises:
            OSError: the client is gone, or does not read its answers.
        """
        try:
            socket.send_fds(self._socket, [data], fds)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
        else:
            return
        async with asyncio.timeout(_SEND_S):
            for part in control.parts_of(data):
                await self._send_part(part, fds)
                fds = []

    async def _send_part(self, part: bytes, fds: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [part], fds)
            except BlockingIOError:
                await _until_writable(self._socket)
            else:
                return

    def send_last(self, data: bytes) -> None:
        """Send a last word, if the client is there to hear it."""
        with contextlib.suppress(OSError):
            self._socket.send(data)

    def has_hung_up(self) -> bool:
        """Whether whoever is at the other end has closed it, though something that it sent may be unread."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    # ---- the end ----------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """End the connection: receive() and the client see that."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self, closed: Callable[[], object]) -> None:
        """Hang up and close it; does not wait for that.

        Args:
            closed: called when it is closed, from any thread.
        """
        self.hang_up()  # from here on nobody can send anything more
        if self._is_harmless():
            _close(self._socket, closed)
        else:
            threading.Thread(target=_close, args=(self._socket, closed), name="zbuf-closing", daemon=True).start()

    def _is_harmless(self) -> bool:
        """Take what was sent from the queue; False where something in there brings file descriptors."""
        try:
            for _ in range(_DRAINED_MAX):
                _, is_one, brings_files = self._look(1)
                if brings_files:
                    return False
                if not is_one:
                    return True
                self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def forget(self) -> None:
        """In a forked child: close it here, and leave it open in the parent."""
        fd = self._socket.detach()
        if fd >= 0:
            os.close(fd)


async def until_readable(waited_for: socket.socket) -> None:
    """Wait until a socket has something for us: a message, a connection, or its end."""
    loop = asyncio.get_running_loop()
    await _until_ready(waited_for.fileno(), loop.add_reader, loop.remove_reader)


async def _until_writable(waited_for: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _until_ready(waited_for.fileno(), loop.add_writer, loop.remove_writer)


async def _until_ready(fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    add(fd, _set, ready)
    try:
        await ready
    finally:
        remove(fd)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _close(connection: socket.socket, closed: Callable[[], object]) -> None:
    connection.close()
    closed()
