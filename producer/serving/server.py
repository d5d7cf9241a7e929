"""The producer's end of the control socket: a thread of its own, running asyncio.

It touches no descriptor. What a client asks for is checked and made ready here (filters compiled, memory reserved), and
handed to the owner of the descriptors as a command. A client can take its time, send rubbish, or die: none of that
reaches the packets.
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.serving.access import Access, Grant, Peer
from zbuf.producer.serving.capture import Attached, Capture, JustEnded, Listener
from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.shared import control
from zbuf.shared.errors import ControlError, Refused, RunDirectoryError, SegmentError, ZbufError
from zbuf.shared.memory.layout import ABI, DEFAULT_BUFFER_BYTES, MAX_CAPLEN, Layout, check_buffer_bytes
from zbuf.shared.memory.pcapng import Interface, prologue
from zbuf.shared.memory.reader_pages import make_ack_page, make_doorbell
from zbuf.shared.memory.segment import Segment
from zbuf.shared.names import check_name

T = TypeVar("T")

log = logging.getLogger("zbuf")

_BACKLOG = 64
_GROWTH_BYTES = 64 << 10
"""What a prologue may grow by, for interfaces that appear later: a thousand of them."""
_WORKERS = 4
"""Filters that are compiled, and segments that are made, at the same time."""


@dataclass
class Identity:
    """What a producer says of itself to its clients."""

    name: str
    epoch: int
    interfaces: list[Interface]
    """Those announced so far, in the order of their numbers; only the owner of the descriptors adds any."""
    application: str
    snaplen: int = MAX_CAPLEN
    """Bytes that the source keeps of each packet: no descriptor gets more."""


class ControlServer:
    """Serves the clients of one producer until stop().

    Args:
        path: of the socket; what a dead producer left there is replaced.
        capture: the owner of the descriptors.
        identity: what clients are told.
        buffer_bytes: the size of a buffer for those who do not ask for one.
        access: who may do what; set_access() changes it.
        mode: the permissions of the socket.
        gid: the group of the socket; None for the process's own.

    Raises:
        RunDirectoryError: the socket can't be made.
    """

    def __init__(
        self,
        path: Path,
        capture: Capture,
        identity: Identity,
        buffer_bytes: int,
        access: Access,
        mode: int = 0o600,
        gid: int | None = None,
    ) -> None:
        self.access = access
        self.buffer_bytes = buffer_bytes
        self.capture = capture
        self.identity = identity
        self.joining = asyncio.Lock()
        self._path = path
        self._socket = _listen(path, mode, gid)
        self._sessions: set[asyncio.Task[None]] = set()
        self._connections: dict[socket.socket, Session] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="zbuf-control", daemon=True)
        self._thread.start()
        self._ready.wait()

    def stop(self) -> None:
        """Close every descriptor, then every connection, then the socket."""
        self.soon(self._stopped.set)
        self._thread.join()

    def set_access(self, access: Access) -> None:
        """Change who may do what, now: whom it allows something else than before is hung up on; from any thread."""
        self.soon(lambda: self._apply_access(access))

    def _apply_access(self, access: Access) -> None:
        self.access = access
        for connection, session in list(self._connections.items()):
            if not session.may_stay(access):
                log.warning("%s: hung up on: the allow list has changed", session.peer)
                _hang_up(connection)

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent, so that its end is seen as its end."""
        for connection in [self._socket, *self._connections]:
            fd = connection.detach()
            if fd >= 0:
                os.close(fd)

    def soon(self, call: Callable[[], None]) -> None:
        """Have the control thread do something."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call)

    async def command(self, command: Callable[[], T]) -> T:
        """Have the owner of the descriptors carry something out."""
        return await asyncio.wrap_future(self.capture.submit(command))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        # One of our own: asyncio imports its where it is first needed, and root, which may have been the only one that
        # can read Python's files, is dropped by then.
        self._loop.set_default_executor(ThreadPoolExecutor(_WORKERS, "zbuf-filter"))
        tasks = [asyncio.create_task(self._accept()), asyncio.create_task(self._tick())]
        self._ready.set()
        await self._stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.command(self.capture.close)
        for connection in list(self._connections):
            _hang_up(connection)
        await asyncio.gather(*self._sessions, return_exceptions=True)
        self._path.unlink(missing_ok=True)
        self._socket.close()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.capture.tick_s)
            self.capture.tick()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError:  # out of file descriptors, or a client that was gone already
                await asyncio.sleep(0.1)
                continue
            connection.setblocking(False)
            session = asyncio.create_task(self._serve(connection))
            self._sessions.add(session)
            session.add_done_callback(self._sessions.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            session = Session(self, connection)
        except OSError:  # it can't be told who it is
            connection.close()
            return
        self._connections[connection] = session
        try:
            if len(self._connections) > self.capture.limits.connections:
                raise Refused(f"more than {self.capture.limits.connections} connections: try again later")
            session.check_allowed()
            while await self._answer_one(connection, session):
                pass
        except ControlError as error:  # not logged: whoever sends rubbish may send a lot of it
            self.capture.refused += 1
            _refuse(connection, str(error))
        except OSError:
            pass  # the client is gone, or does not read its answers
        except Exception:
            log.exception("a request failed, and its connection is closed: this is a bug of zbuf")
            _refuse(connection, "the producer failed at this request: its log says how")
        finally:
            del self._connections[connection]
            connection.close()
            await session.leave()

    async def _answer_one(self, connection: socket.socket, session: "Session") -> bool:
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(connection, control.REQUEST_BYTES_MAX + 1)
        if not data:
            return False
        request = control.decode_request(data)
        fds: list[int] = []
        try:
            try:
                answer = await session.handle(request, fds)
            except ZbufError as error:
                answer = control.Refusal(reason=str(error))
            except OSError as error:  # out of file descriptors, for one
                answer = control.Refusal(reason=f"the producer can't do that now: {error.strerror}")
                close_all(fds)
            socket.send_fds(connection, [control.encode(answer)], fds)
        finally:
            close_all(fds)
        return True


class Session:
    """One connection: at most one reader."""

    def __init__(self, server: ControlServer, connection: socket.socket) -> None:
        self.peer = Peer.of(connection)
        self._server = server
        self._connection = connection
        self._grant = Grant()
        self._listener: Listener | None = None
        self._number = 0

    def check_allowed(self) -> None:
        """Raise Refused where the peer may see nothing, and log it."""
        try:
            self._grant = self._server.access.grant(self.peer)
        except Refused:
            log.warning("refused %s: not on the allow list", self.peer)
            raise

    def may_stay(self, access: Access) -> bool:
        """Whether the peer may see under `access` just what it may see now."""
        try:
            return access.grant(self.peer) == self._grant
        except Refused:
            return False

    async def handle(self, request: control.Request, fds: list[int]) -> control.Answer:
        """Carry out one request.

        Args:
            request: what was asked.
            fds: takes the file descriptors that go with the answer, to be closed after it was sent.

        Raises:
            ZbufError: the request is refused; the message says why.
        """
        match request:
            case control.Connect():
                return await self._connect(request, fds)
            case control.Stats():
                return await self._statistics()
            case control.Leave():
                await self.leave()
                return control.Done()
            case control.Rotate():
                descriptor = self._mine("rotate").descriptor
                return control.Done(changed=await self._server.command(descriptor.rotate))
            case control.Flush():
                await self._server.command(self._mine_alone("flush").descriptor.flush)
                return control.Done()
            case control.SetFilter():
                return await self._set_filter(request)

    async def leave(self) -> None:
        """Give back what this connection's reader has, if it has one."""
        listener, self._listener = self._listener, None
        if listener is not None:
            await self._server.command(lambda: self._server.capture.remove_reader(listener, self._number))

    async def _statistics(self) -> control.Statistics:
        identity, capture = self._server.identity, self._server.capture
        return await self._server.command(lambda: capture.statistics(identity.name, identity.epoch))

    def _mine(self, what: str) -> Listener:
        if self._listener is None:
            raise Refused(f"{what}: this connection has no descriptor: connect first")
        return self._listener

    def _mine_alone(self, what: str) -> Listener:
        listener = self._mine(what)
        if len(listener.readers) > 1:
            raise Refused(
                f"{what}: {len(listener.readers)} readers share descriptor {listener.join!r}: use one of your own"
            )
        return listener

    async def _set_filter(self, request: control.SetFilter) -> control.Answer:
        listener = self._mine_alone("set filter")
        interfaces = self._server.identity.interfaces
        filters = await asyncio.to_thread(LinkFilters, request.filter, tuple(interfaces))

        def install() -> None:
            self._mine_alone("set filter").descriptor.set_filter(filters.programs(interfaces), request.flush)
            listener.filters = filters
            listener.settings = msgspec.structs.replace(listener.settings, filter=request.filter)

        await self._server.command(install)
        return control.Done(warnings=filters.warnings(interfaces))

    async def _connect(self, request: control.Connect, fds: list[int]) -> control.Connected:
        if self._listener is not None:
            raise Refused("connect: this connection has a descriptor already: open another connection")
        if request.abi != ABI:
            raise Refused(f"this producer speaks ABI {ABI}, the client {request.abi}: use the same version of zbuf")
        if request.join is None:
            return await self._attach(await self._open(request, None), fds, is_new=True)
        async with self._server.joining:
            return await self._join(request, check_name(request.join, "group name"), fds)

    async def _join(self, request: control.Connect, join: str, fds: list[int]) -> control.Connected:
        while True:
            listener = await self._server.command(lambda: self._server.capture.find_group(join))
            if listener is None:
                return await self._attach(await self._open(request, join), fds, is_new=True)
            if listener.grant != self._grant:
                raise Refused(f"descriptor {join!r} shows something else than you may see: join another")
            if request.settings is not None and self._settings(request) != listener.settings:
                raise Refused(f"descriptor {join!r} is there with other settings: leave yours out, or join another")
            try:
                return await self._attach(listener, fds, is_new=False)
            except JustEnded:
                close_all(fds)  # its last reader left while we came: make it anew

    def _settings(self, request: control.Connect) -> control.Settings:
        """What was asked for, with the producer's choice where nothing was."""
        asked = request.settings or control.Settings()
        size = self._server.buffer_bytes if asked.buffer_bytes is None else asked.buffer_bytes
        check_buffer_bytes(size)
        snaplen = min(asked.snaplen, self._server.identity.snaplen)
        return msgspec.structs.replace(asked, buffer_bytes=size, snaplen=snaplen)

    async def _open(self, request: control.Connect, join: str | None) -> Listener:
        settings = self._settings(request)
        size = settings.buffer_bytes or 0
        await self._server.command(lambda: self._server.capture.check_room(self.peer.uid, size))
        return await asyncio.to_thread(self._make_listener, settings, join)

    def _make_listener(self, settings: control.Settings, join: str | None) -> Listener:
        """Everything that takes time, while nobody waits for it: filters, the memory of a large segment."""
        interfaces = tuple(
            self._server.identity.interfaces
        )  # those that appear meanwhile are announced in add_reader()
        filters = LinkFilters(settings.filter, interfaces)
        guards = LinkFilters(self._grant.guard, interfaces)
        segment = _make_segment(self._server.identity, interfaces, settings, self._server.capture.new_number)
        try:
            descriptor = Descriptor(
                snaplen=settings.snaplen,
                immediate=settings.immediate,
                timeout_ms=settings.timeout_ms,
                direction=settings.direction,
                interfaces=self._grant.interfaces,
                guard=guards.programs(interfaces),
            )
            descriptor.set_buffers(segment.map, *segment.layout.buffer_offsets, segment.layout.buffer_bytes)
            descriptor.set_filter(filters.programs(interfaces))
        except BaseException:
            segment.remove()
            raise
        segment.open()
        number = int(segment.layout.descriptor)
        return Listener(number, join, settings, segment, descriptor, self.peer.uid, self._grant, filters, guards)

    async def _attach(self, listener: Listener, fds: list[int], *, is_new: bool) -> control.Connected:
        """Have the owner let this connection's reader in; the three descriptors that it gets go to `fds`."""
        capture, number = self._server.capture, self._server.capture.new_number()
        with contextlib.ExitStack() as undo:
            if is_new:
                undo.callback(listener.segment.discard)
                undo.callback(listener.descriptor.close)
            fds.append(reader_fd(listener))
            ack_fd, ack_map = make_ack_page()
            fds.append(ack_fd)
            undo.callback(ack_map.close)
            bell, doorbell = make_doorbell()
            fds.append(bell)
            undo.callback(os.close, doorbell)
            reader = Attached(number, self.peer, ack_map, doorbell, self._hang_up_soon)
            (sequence, known), offered = await self._server.command(
                lambda: (capture.add_reader(listener, reader, is_new=is_new), capture.pump.offered)
            )
            undo.pop_all()
        self._listener, self._number = listener, number
        return self._connected(listener, sequence, known, offered)

    def _hang_up_soon(self) -> None:
        """End this connection, from the thread that owns the descriptors."""
        self._server.soon(lambda: _hang_up(self._connection))

    def _connected(self, listener: Listener, sequence: int, known: int, offered: int) -> control.Connected:
        identity = self._server.identity
        interfaces = identity.interfaces[:known]
        return control.Connected(
            producer=identity.name,
            descriptor=listener.number,
            reader=self._number,
            sequence=sequence,
            snaplen=listener.settings.snaplen,
            filter=listener.settings.filter,
            interfaces=[interface.name for interface in interfaces],
            offered=offered,
            warnings=listener.filters.warnings(interfaces),
        )


def close_all(fds: list[int]) -> None:
    """Close file descriptors, and forget them."""
    while fds:
        os.close(fds.pop())


def reader_fd(listener: Listener) -> int:
    """A reader's file descriptor of a segment; raises JustEnded where the last reader has left meanwhile."""
    try:
        return listener.segment.reader_fd()
    except SegmentError:
        if listener.descriptor.closed:
            raise JustEnded("the descriptor has just ended: connect again") from None
        raise


def _hang_up(connection: socket.socket) -> None:
    """Its session sees the end, and clears up after itself."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _refuse(connection: socket.socket, reason: str) -> None:
    with contextlib.suppress(OSError):
        connection.send(control.encode(control.Refusal(reason=reason)))


def _make_segment(
    identity: Identity, interfaces: Sequence[Interface], settings: control.Settings, new_number: Callable[[], int]
) -> Segment:
    """A segment under a number that no other producer of this name has taken, one in another run directory say."""
    head = prologue(interfaces, settings.snaplen, identity.application)
    while True:
        layout = Layout(
            identity.name,
            str(new_number()),
            identity.epoch,
            settings.buffer_bytes or DEFAULT_BUFFER_BYTES,
            len(head),
            settings.snaplen,
            _GROWTH_BYTES,
        )
        try:
            return Segment(layout, head)
        except FileExistsError:
            continue


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
