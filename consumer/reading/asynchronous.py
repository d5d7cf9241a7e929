"""Readers in an asyncio event loop: many of them in one thread, and nobody waits busily."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from select import POLLHUP, poll
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from zbuf.consumer.reading.batches import Batch
from zbuf.consumer.reading.buffer import Buffer, Packet
from zbuf.consumer.reading.connection import until_next_look
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.reading.reconnecting import ReconnectingReader
from zbuf.consumer.reading.surface import Asking, Described, EndReason, Facts
from zbuf.shared.arguments import accepted
from zbuf.shared.errors import ValueRefused

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

_PACKETS_A_TURN = 256
"""After so many packets of a buffer, others in the event loop have their turn."""


def _in_thread(
    method: Callable[Concatenate[Asking, _P], _Result],
) -> "Callable[Concatenate[AsyncReader, _P], Coroutine[Any, Any, _Result]]":
    """The same request for asyncio: a thread waits for its answer."""

    @functools.wraps(method)
    async def call(self: "AsyncReader", /, *args: _P.args, **keywords: _P.kwargs) -> _Result:
        return await asyncio.to_thread(getattr(self.reader, method.__name__), *args, **keywords)

    return call


class AsyncReader(Described):
    """The packets of one capture, zero-copy, for asyncio; made by connect_async().

    ``async for packet in reader`` sleeps in the event loop while there is nothing to read, and while there is a lot, it
    lets others have their turn. It is an async context manager. One task at a time may wait for packets.

    Args:
        reader: what to read; this one closes it.
    """

    def __init__(self, reader: Reader | ReconnectingReader) -> None:
        self.reader = reader
        """The reader behind it; while a task waits for packets, leave its next_buffer() and iterators alone."""
        self._ring: asyncio.Future[None] | None = None
        self._looking: asyncio.Future[Buffer | None] | None = None
        self._taking = False
        self._packets: Iterator[Packet] = iter(())  # of the last buffer, those that an iteration has not given yet

    # ---- packets ------------------------------------------------------------------------------------------------

    async def next_buffer(self, timeout: float | None = None) -> Buffer | None:
        """Acknowledge the last buffer and wait for the next.

        Nothing is lost when the time is over, nor when asyncio.timeout() strikes around it.

        Args:
            timeout: how long to wait, in seconds; None for as long as it takes, 0 to look once.

        Returns:
            A Buffer; None when the time is over, or at the end of the stream, which `finished` tells.

        Raises:
            ValueRefused: another task already waits for it, or the reader is closed.
            BufferError, CorruptBuffer: as from Reader.next_buffer().
        """
        if timeout is None:
            return await self._next_buffer()
        try:
            async with asyncio.timeout(max(0, accepted("timeout", timeout, float))):
                return await self._next_buffer()
        except TimeoutError:
            return None

    async def _next_buffer(self) -> Buffer | None:
        if self._taking:
            raise ValueRefused("another task waits for this reader's next buffer: connect once for each task")
        self._taking = True
        self._packets = iter(())
        try:
            buffer = self.reader.next_buffer(0) if self._looking is None else await self._look_in_thread()
            while buffer is None and not self.reader.finished:
                buffer = await self._next_ring()
            return buffer
        finally:
            self._taking = False

    async def buffers(self) -> AsyncIterator[Buffer]:
        """Iterate over the buffers, each valid until the next is taken; ends with the stream."""
        while (buffer := await self.next_buffer()) is not None:
            yield buffer
            await asyncio.sleep(0)

    async def index_batches(self) -> AsyncIterator[Batch]:
        """Iterate over the buffers as NumPy sees them, each valid until the next is taken: see Batch."""
        async for buffer in self.buffers():
            yield Batch(buffer)

    async def __aiter__(self) -> AsyncIterator[Packet]:
        """Iterate over the packets, zero-copy: each is valid until its buffer is acknowledged, which moving on does.

        It goes on where the iteration before was left, by break or by asyncio.timeout().
        """
        turn = 0
        while True:
            for packet in self._packets:
                yield packet
                turn += 1
                if turn == _PACKETS_A_TURN:
                    turn = 0
                    await asyncio.sleep(0)
            if (buffer := await self.next_buffer()) is None:
                return
            self._packets = iter(buffer)

    # ---- waiting ------------------------------------------------------------------------------------------------

    async def _next_ring(self) -> Buffer | None:
        """Wait for the doorbell, and look again."""
        fd = self.reader.fileno()
        if fd < 0:  # there is no producer now
            await asyncio.sleep(until_next_look())
        else:
            await self._rung(fd)
        if self.reader.finished:  # another task has closed it
            return None
        if fd < 0 or self._hung_up(fd):  # to tell death from eviction may take a moment
            return await self._look_in_thread()
        return self.reader.next_buffer(0)

    async def _look_in_thread(self) -> Buffer | None:
        """next_buffer(0) where it may take a while; what it finds is the next call's if this one is cancelled."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(asyncio.to_thread(self.reader.next_buffer, 0))
        await asyncio.wait([self._looking])
        looked, self._looking = self._looking, None
        return looked.result()

    async def _rung(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._ring = ring = loop.create_future()
        loop.add_reader(fd, _note, ring)
        try:
            await ring
        finally:
            if self._ring is ring:  # close() has not taken it away
                self._ring = None
                loop.remove_reader(fd)

    @staticmethod
    def _hung_up(fd: int) -> bool:
        polled = poll()
        polled.register(fd, 0)
        return any(events & POLLHUP for _, events in polled.poll(0))

    # ---- what it says of itself, and requests -------------------------------------------------------------------

    def _facts(self) -> Facts:
        return self.reader._facts()

    @property
    def finished(self) -> bool:
        """Whether the stream has ended, and everything in it was taken."""
        return self.reader.finished

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers; None while there may be: see Reader.end_reason."""
        return self.reader.end_reason

    stats = _in_thread(Asking.stats)
    rotate = _in_thread(Asking.rotate)
    set_filter = _in_thread(Asking.set_filter)
    flush = _in_thread(Asking.flush)

    def close(self) -> None:
        """Leave: the producer takes the buffers back; a task that waits for packets finds the end of the stream."""
        ring, self._ring = self._ring, None
        if ring is not None and not ring.get_loop().is_closed():
            ring.get_loop().remove_reader(self.reader.fileno())
            _note(ring)
        self.reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _note(ring: "asyncio.Future[None]") -> None:
    if not ring.done():
        ring.set_result(None)
