"""One client's connection: its requests, one after the other, and at most one reader.

A session touches no descriptor. It checks what the client asks for and makes it ready (a filter compiled, memory
reserved), and hands it to the owner of the descriptors as a command.
"""

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from zbuf.producer.compiling import Compiler
from zbuf.producer.serving.access import Access, Grant, Peer, is_operator
from zbuf.producer.serving.link_filters import INSTRUCTION_BYTES, LinkFilters
from zbuf.producer.serving.listener import Listener
from zbuf.producer.serving.owner import Owner
from zbuf.producer.serving.peer_socket import PeerSocket
from zbuf.producer.serving.roster import JustEnded, JustOpened, Roster
from zbuf.producer.serving.seen import Viewer
from zbuf.producer.serving.setup import Identity, complete_settings, make_listener, make_reader
from zbuf.producer.serving.shares import FILES_OF_DESCRIPTOR, FILES_OF_READER, FILES_TO_SEND, Booking
from zbuf.shared import control
from zbuf.shared.errors import ControlError, FilterError, Refused, ZbufError
from zbuf.shared.memory.layout import ABI
from zbuf.shared.names import check_name

T = TypeVar("T")

_FIRST_REQUEST_S = 10.0
"""How long a connection may stay that asks for nothing."""


@dataclass
class Context:
    """What the sessions of one producer share."""

    identity: Identity
    owner: Owner
    roster: Roster
    buffer_bytes: int
    """The size of a buffer for clients that do not ask for one."""
    access: Access
    """Who may see what; replaced when that changes."""
    compiler: Compiler = field(default_factory=Compiler)
    joining: "weakref.WeakValueDictionary[tuple[int, str], asyncio.Lock]" = field(
        default_factory=weakref.WeakValueDictionary
    )
    """By user and shared descriptor: held while a reader joins, so that of many who come at once only one opens it.

    Users don't wait for each other here: where two open it at once, the second joins the first.
    """

    async def command(self, command: Callable[[], T]) -> T:
        """Have the owner of the descriptors carry something out."""
        return await asyncio.wrap_future(self.owner.submit(command))


class NotAllowed(Refused):
    """The allow list does not name the peer."""


class Session:
    """One connection, to be made and served in the control thread.

    Args:
        context: what it shares with the other sessions.
        connection: the caller closes it in the end.
        peer: who connected.
    """

    def __init__(self, context: Context, connection: PeerSocket, peer: Peer) -> None:
        self.peer = peer
        self._context = context
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._grant = Grant()
        self._listener: Listener | None = None
        self._number = 0
        self._booked = contextlib.ExitStack()  # for the reader, until it leaves
        self._sending = contextlib.ExitStack()  # for the file descriptors of an answer, until that is sent

    # ---- the connection ---------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Answer requests until the client closes the connection.

        Raises:
            ControlError: the client may see nothing, asks for nothing, or broke the rules of the protocol.
            OSError: the client is gone, or does not read its answers.
        """
        self._check_allowed()
        data = await self._first_request()
        while data:
            await self._answer(control.decode_request(data))
            data = await self._connection.receive()

    async def _first_request(self) -> bytes:
        try:
            async with asyncio.timeout(_FIRST_REQUEST_S):
                return await self._connection.receive()
        except TimeoutError:
            raise ControlError(f"no request came within {_FIRST_REQUEST_S:g} s: ask at once") from None

    async def _answer(self, request: control.Request) -> None:
        fds: list[int] = []
        try:
            try:
                answer = await self._handle(request, fds)
            except ZbufError as error:
                answer = control.Refusal(reason=str(error))
                self._context.roster.refusals.note(self.peer.uid, self.peer, type(request).__name__, str(error))
            except OSError as error:  # out of file descriptors, for one
                answer = control.Refusal(reason=f"the producer can't do that now: {error.strerror}")
            if isinstance(answer, control.Refusal):
                _close_all(fds)  # a refused client gets nothing
            await self._connection.send(control.encode_answer(answer), fds)
        finally:
            _close_all(fds)
            self._sending.close()

    def refuse(self, reason: str) -> None:
        """Tell the client why its connection ends."""
        self._connection.send_last(control.encode(control.Refusal(reason=reason)))

    def hang_up(self) -> None:
        """End the connection: serve() sees that, and returns."""
        self._connection.hang_up()

    def _hang_up_soon(self) -> None:
        """hang_up() from another thread."""
        with contextlib.suppress(RuntimeError):  # the control thread has ended
            self._loop.call_soon_threadsafe(self.hang_up)

    async def close(self) -> None:
        """Give back what the reader has."""
        await self._leave()

    def forget(self) -> None:
        """In a forked child: close the connection here, and leave it open in the parent."""
        self._connection.forget()

    # ---- what the client may see ------------------------------------------------------------------------------------

    def _check_allowed(self) -> None:
        try:
            self._grant = self._context.access.grant(self.peer)
        except Refused as error:
            raise NotAllowed(str(error)) from None

    def may_stay(self, access: Access) -> bool:
        """Whether the peer may see just the same under `access` as it may see now."""
        try:
            return access.grant(self.peer) == self._grant
        except Refused:
            return False

    # ---- requests ---------------------------------------------------------------------------------------------------

    async def _handle(self, request: control.Request, fds: list[int]) -> control.Answer:
        """Carry out one request.

        Args:
            request: what the client asks for.
            fds: takes the file descriptors that go with the answer; the caller closes them.

        Raises:
            ZbufError: the request is refused; the message says why.
        """
        match request:
            case control.Connect():
                return await self._connect(request, fds)
            case control.Stats():
                return await self._statistics()
            case control.Leave():
                await self._leave()
                return control.Done()
            case control.Rotate():
                descriptor = self._mine("rotate").descriptor
                return control.Done(changed=await self._context.command(descriptor.rotate))
            case control.Flush():
                await self._context.command(self._mine_alone("flush").descriptor.flush)
                return control.Done()
            case control.SetFilter():
                return await self._set_filter(request)

    async def _leave(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await self._context.command(lambda: self._context.roster.remove_reader(listener, self._number))
        self._booked.close()

    async def _statistics(self) -> control.Statistics:
        identity, roster = self._context.identity, self._context.roster
        viewer = Viewer(self.peer, self._grant)
        return await self._context.command(lambda: roster.statistics(identity.name, identity.epoch, viewer))

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
        interfaces = self._context.identity.interfaces
        filters = await self._compile(request.filter)

        def install() -> None:
            self._context.roster.check_filter(listener.uid, filters.instructions, listener)
            self._mine_alone("set filter").descriptor.set_filter(filters.programs(interfaces), request.flush)
            listener.filters = filters

        await self._context.command(install)
        listener.settings = msgspec.structs.replace(listener.settings, filter=request.filter)
        return control.Done(warnings=filters.warnings(self._grant.visible(interfaces)))

    async def _compile(self, expression: str) -> LinkFilters:
        """Compile a filter elsewhere, while others are served.

        Raises:
            FilterError: it compiles for no interface that there is, or takes too long.
            Refused: it comes to more than the peer's filters may.
        """
        context, uid = self._context, self.peer.uid
        names = context.roster.shares.limits.names or is_operator(uid)

        async def in_turn(expression: str, linktype: int) -> bytes:
            self._check_wanted()
            return await context.compiler.compile(expression, linktype, uid=uid, names=names)

        def now(expression: str, linktype: int) -> bytes:
            return self._checked(context.compiler.compile_now(expression, linktype, uid=uid, names=names))

        filters = await LinkFilters.compiled(expression, tuple(context.identity.interfaces), in_turn, now)
        context.roster.shares.limits.check_filter(filters.instructions)
        return filters

    def _checked(self, program: bytes) -> bytes:
        """A program for a link type that appeared later, which can't be refused any more; or FilterError."""
        try:
            self._context.roster.shares.limits.check_filter(len(program) // INSTRUCTION_BYTES)
        except Refused as error:
            raise FilterError(str(error)) from None
        return program

    # ---- connecting -------------------------------------------------------------------------------------------------

    async def _connect(self, request: control.Connect, fds: list[int]) -> control.Connected:
        if self._listener is not None:
            raise Refused("connect: this connection has a descriptor already: open another connection")
        if request.abi != ABI:
            raise Refused(f"this producer speaks ABI {ABI}, the client {request.abi}: use the same version of zbuf")
        with contextlib.ExitStack() as booked:
            booked.enter_context(self._book(readers=1, files=FILES_OF_READER))
            self._sending.enter_context(self._book(files=FILES_TO_SEND))
            connected = await self._open_or_join(request, fds)
            self._booked = booked.pop_all()
        return connected

    def _book(self, **wanted: int) -> Booking:
        return self._context.roster.shares.book(self.peer.uid, **wanted)

    async def _open_or_join(self, request: control.Connect, fds: list[int]) -> control.Connected:
        if request.join is None:
            return await self._attach(await self._open(request, None), fds, is_new=True)
        join = check_name(request.join, "group name")
        async with self._context.joining.setdefault((self.peer.uid, join), asyncio.Lock()):
            return await self._join(request, join, fds)

    async def _join(self, request: control.Connect, join: str, fds: list[int]) -> control.Connected:
        while True:
            listener = await self._context.command(lambda: self._context.roster.find_group(join))
            try:
                if listener is None:
                    return await self._attach(await self._open(request, join), fds, is_new=True)
                return await self._attach(self._checked_to_join(listener, request), fds, is_new=False)
            except (JustEnded, JustOpened):
                _close_all(fds)  # its last reader left, or somebody else opened it, while we came: look again

    def _checked_to_join(self, listener: Listener, request: control.Connect) -> Listener:
        join = listener.join
        if listener.grant != self._grant:
            raise Refused(f"descriptor {join!r} shows something else than you may see: join another")
        if request.settings is not None and self._settings(request) != listener.settings:
            raise Refused(f"descriptor {join!r} is there with other settings: leave yours out, or join another")
        return listener

    def _settings(self, request: control.Connect) -> control.Settings:
        return complete_settings(request.settings, self._context.identity, self._context.buffer_bytes)

    async def _open(self, request: control.Connect, join: str | None) -> Listener:
        settings = self._settings(request)
        memory = 2 * (settings.buffer_bytes or 0)
        with contextlib.ExitStack() as booked:
            booking = booked.enter_context(self._book(descriptors=1, memory=memory, files=FILES_OF_DESCRIPTOR))
            try:
                filters = await self._compile(settings.filter)
                listener = await asyncio.to_thread(self._make, settings, join, filters)
            finally:
                self._context.roster.shares.note_made(memory)
            listener.booking = booking
            booked.pop_all()
        return listener

    def _make(self, settings: control.Settings, join: str | None, filters: LinkFilters) -> Listener:
        """Make a descriptor with its memory, in a thread that nobody waits for when the producer ends."""
        context = self._context
        listener = make_listener(
            context.identity,
            settings,
            join,
            context.roster.new_number,
            uid=self.peer.uid,
            grant=self._grant,
            filters=filters,
            check=self._check_wanted,
        )
        if context.roster.closing:
            listener.descriptor.close()
            listener.segment.discard()
            raise Refused("this producer is ending")
        return listener

    def _check_wanted(self) -> None:
        """Give up what takes long where nobody waits for it any more; from any thread."""
        if self._context.roster.closing:
            raise Refused("this producer is ending")
        if self._connection.has_hung_up():
            raise ConnectionResetError

    async def _attach(self, listener: Listener, fds: list[int], *, is_new: bool) -> control.Connected:
        """Have the owner let this connection's reader in; its three file descriptors go to `fds`."""
        context, number = self._context, self._context.roster.new_number()
        with contextlib.ExitStack() as undo:
            if is_new:
                undo.callback(listener.release)
                undo.callback(listener.segment.discard)
                undo.callback(listener.descriptor.close)
            reader = make_reader(listener, number, self.peer, self._hang_up_soon, fds, undo)
            (sequence, known), offered = await context.command(
                lambda: (context.roster.add_reader(listener, reader, is_new=is_new), context.owner.pump.offered)
            )
            undo.pop_all()
        self._listener, self._number = listener, number
        return self._connected(listener, sequence, known, offered)

    def _connected(self, listener: Listener, sequence: int, known: int, offered: int) -> control.Connected:
        identity = self._context.identity
        interfaces = identity.interfaces[:known]
        return control.Connected(
            producer=identity.name,
            descriptor=listener.number,
            reader=self._number,
            sequence=sequence,
            snaplen=listener.settings.snaplen,
            filter=listener.settings.filter,
            interfaces=[interface.name for interface in self._grant.shown(interfaces)],
            offered=offered,
            warnings=listener.filters.warnings(self._grant.visible(interfaces)),
        )


def _close_all(fds: list[int]) -> None:
    """Close file descriptors, and forget them."""
    while fds:
        os.close(fds.pop())
