"""The ways in: connect() and connect_async()."""

import asyncio
import os
from collections.abc import Generator
from typing import Any, Literal, Unpack, overload

from zbuf.consumer.reading.asynchronous import AsyncReader
from zbuf.consumer.reading.reader import DEFAULT_SPIN_US, Options, Reader, Wait, open_reader
from zbuf.consumer.reading.reconnecting import ReconnectingReader
from zbuf.shared import control
from zbuf.shared.memory.layout import MAX_CAPLEN


@overload
def connect(name: str, *, reconnect: Literal[False] = ..., **options: Unpack[Options]) -> Reader: ...
@overload
def connect(name: str, *, reconnect: Literal[True], **options: Unpack[Options]) -> ReconnectingReader: ...
@overload
def connect(name: str, *, reconnect: bool, **options: Unpack[Options]) -> Reader | ReconnectingReader: ...
def connect(
    name: str,
    *,
    filter: str = "",  # noqa: A002  (tcpdump's word for it)
    join: str | None = None,
    snaplen: int = MAX_CAPLEN,
    buffer_size: int | None = None,
    immediate: bool = False,
    timeout_ms: int = control.DEFAULT_TIMEOUT_MS,
    direction: control.Direction = "inout",
    wait: Wait = "sleep",
    spin_us: int = DEFAULT_SPIN_US,
    reconnect: bool = False,
    run_dir: str | os.PathLike[str] | None = None,
) -> Reader | ReconnectingReader:
    """Open a descriptor on a capture, or join one, and read packets from it.

    Its packets begin with the first one after this returns. A descriptor of one's own has its own filter, buffers and
    drops: how slow its reader is harms nobody else.

    Args:
        name: the producer's.
        filter: a pcap-filter(7) expression; empty for everything.
        join: the name of a descriptor to share with all who say the same: each packet is stored once for all of them,
            and a buffer is free once every one of them has acknowledged it. The first to come decides on the settings.
        snaplen: bytes to keep of each packet, 1 to 262,144.
        buffer_size: bytes of each of the two buffers; whole pages, up to 1 GiB; None for the producer's own choice.
        immediate: have each packet assigned at once, where a buffer is free.
        timeout_ms: have a buffer assigned after this time though it is not full; 0 for never.
        direction: "in", "out" or "inout".
        wait: "sleep" looks for a buffer for `spin_us` and then sleeps; "spin" never makes a system call.
        spin_us: how long to look before sleeping, in microseconds, up to a second.
        reconnect: come back when the producer, having ended, is there again; see ReconnectingReader.
        run_dir: where the producer's socket is; see zbuf.shared.control.rundir.search_path().

    Raises:
        ProducerNotFound: there is no producer of that name.
        Refused: it refuses, and says why: a filter that does not compile, a limit that is reached.
        ValueRefused: an argument is out of its range.
        SegmentError: what it sent is no segment of this ABI.
    """
    options = Options(
        filter=filter,
        join=join,
        snaplen=snaplen,
        buffer_size=buffer_size,
        immediate=immediate,
        timeout_ms=timeout_ms,
        direction=direction,
        wait=wait,
        spin_us=spin_us,
        run_dir=run_dir,
    )
    return ReconnectingReader(name, options) if reconnect else open_reader(name, options)


class connect_async:  # noqa: N801  (it is called as a function is)
    """connect(), for asyncio: ``async with connect_async(name) as reader``, or ``reader = await connect_async(name)``.

    Args:
        name: the producer's.
        reconnect: come back when the producer, having ended, is there again.
        options: those of connect(); its reader never looks for packets longer than a moment, so `wait` and `spin_us`
            mean nothing here.

    Raises:
        ZbufError: as from connect(), when it is awaited or entered.
    """

    def __init__(self, name: str, *, reconnect: bool = False, **options: Unpack[Options]) -> None:
        self._name = name
        self._reconnect = reconnect
        self._options = Options(**{**options, "wait": "sleep", "spin_us": 0})
        self._reader: AsyncReader | None = None

    def __await__(self) -> Generator[Any, None, AsyncReader]:
        return self._connect().__await__()

    async def _connect(self) -> AsyncReader:
        # In a thread: the producer may have a filter to compile, and memory to reserve, before it answers.
        opening = asyncio.get_running_loop().run_in_executor(None, self._open)
        try:
            return AsyncReader(await asyncio.shield(opening))
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)
            raise

    def _open(self) -> Reader | ReconnectingReader:
        return connect(self._name, reconnect=self._reconnect, **self._options)

    async def __aenter__(self) -> AsyncReader:
        self._reader = await self._connect()
        return self._reader

    async def __aexit__(self, *exception: object) -> None:
        if self._reader is not None:
            self._reader.close()


def _close_unwanted(opening: "asyncio.Future[Reader | ReconnectingReader]") -> None:
    """A reader that came after nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
