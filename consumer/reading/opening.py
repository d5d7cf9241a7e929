"""The ways in: connect() and connect_async(), to a producer or to a file.

Their parameters are the fields of a struct, see Options, and are declared nowhere else: a type checker, an editor and
help() read them from its constructor.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Generator
from typing import Any, Literal, ParamSpec, Protocol, cast, overload

import msgspec

from zbuf.consumer.reading.asynchronous import AsyncReader
from zbuf.consumer.reading.connection import wait_for_producer
from zbuf.consumer.reading.options import Options, takes
from zbuf.consumer.reading.reader import Reader, open_reader
from zbuf.consumer.reading.reconnecting import ReconnectingReader
from zbuf.shared.errors import ProducerNotFound, ValueRefused


class Arguments(Options, frozen=True):
    """What connect() and connect_async() take: a producer's name or a file, the options, and whether to reconnect."""

    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.name is None) == (self.file is None):
            raise TypeError(f"name={self.name!r}, file={self.file!r}: give a producer's name or a file")


class _Any(Arguments, frozen=True, kw_only=True):
    reconnect: bool = False


class _Once(Arguments, frozen=True, kw_only=True):
    reconnect: Literal[False] = False


class _Again(Arguments, frozen=True, kw_only=True):
    reconnect: Literal[True]


_AnyP = ParamSpec("_AnyP")
_OnceP = ParamSpec("_OnceP")
_AgainP = ParamSpec("_AgainP")


class _Connect(Protocol[_OnceP, _AgainP, _AnyP]):
    """Which reader connect() returns."""

    __name__: str

    @overload
    def __call__(self, *args: _OnceP.args, **options: _OnceP.kwargs) -> Reader: ...
    @overload
    def __call__(self, *args: _AgainP.args, **options: _AgainP.kwargs) -> ReconnectingReader: ...
    @overload
    def __call__(self, *args: _AnyP.args, **options: _AnyP.kwargs) -> Reader | ReconnectingReader: ...


def _typed(
    once: Callable[_OnceP, _Once], again: Callable[_AgainP, _Again], either: Callable[_AnyP, _Any]
) -> Callable[[Callable[_AnyP, object]], _Connect[_OnceP, _AgainP, _AnyP]]:
    """Tell type checkers which reader connect() returns; at run time, nothing."""
    del once, again, either
    return lambda function: cast(Any, function)


@_typed(_Once, _Again, _Any)
@takes(_Any)
def connect(arguments: _Any) -> Reader | ReconnectingReader:
    """Open a descriptor on a capture, or join one, and read packets from it.

    Its packets begin with the first one after this returns. A descriptor of one's own has its own filter, buffers and
    drops: however slow its reader is, it harms nobody else.

    Args:
        name: the producer's.
        file: a capture file, in place of a producer: threads of this program publish it, without loss, to this reader
            alone, which is what every reader is. It begins with the file's first packet. That is for development and
            tests; to have several readers, see zbuf.replay().
        filter: a pcap-filter(7) expression; None or empty for everything.
        join: the name of a descriptor to share with everybody who gives the same name: each packet is stored once for
            all of them, and a buffer is free once all of them have acknowledged it. The first to come decides on the
            settings.
        snaplen: bytes to keep of each packet, 1 to 262,144.
        buffer_size: bytes of each of the two buffers, up to 1 GiB; "8M" or "512k" are sizes, too. It is rounded up to
            whole pages. None for the producer's own choice.
        immediate: have each packet assigned at once, where a buffer is free.
        timeout_ms: have a buffer that is not full assigned after this time, such as 0.5; 0 for never.
        direction: "in", "out" or "inout".
        wait: "sleep" looks for a buffer for `spin_us` and then sleeps; "spin" never makes a system call.
        spin_us: how long to look before sleeping, in microseconds, up to a second.
        wait_s: how long to wait for the producer, in seconds, where none of that name runs yet.
        reconnect: when the producer has ended, wait for it to run again; see ReconnectingReader.
        run_dir: where the producer's socket is; see zbuf.shared.control.rundir.search_path().

    Returns:
        A Reader, or a ReconnectingReader if `reconnect` is true.

    Raises:
        ProducerNotFound: no producer of that name runs, or came within `wait_s`.
        CaptureFileError: `file` is missing, empty or not a capture.
        Refused: the producer refuses, and says why: the filter does not compile, or a limit is reached.
        ValueRefused: an argument is out of its range.
        TypeError: an argument is of the wrong type, or both or neither of `name` and `file` are given.
        SegmentError: the producer sent something that is not a segment of this ABI.
    """
    return _open(arguments)


def _open(arguments: _Any, check: Callable[[], object] = lambda: None) -> Reader | ReconnectingReader:
    """Open what the arguments say; `check` may raise to end the wait for a producer."""
    if arguments.file is not None:
        return _open_file(arguments, os.fspath(arguments.file))
    name, make = str(arguments.name), ReconnectingReader if arguments.reconnect else open_reader
    return wait_for_producer(lambda: make(name, arguments), arguments.wait_s, check)


def _open_file(arguments: _Any, file: str) -> Reader:
    from zbuf.shared.cli.process import replaying

    if arguments.reconnect:
        raise ValueRefused(f"reconnect=True with file={file!r}: a file ends once: leave one out")
    arguments.request()  # raises for what can't be before anything is begun
    replay = replaying().PrivateReplay(file)
    try:
        reader = open_reader(replay.name, msgspec.structs.replace(arguments, run_dir=replay.run_dir))
    except BaseException:
        replay.close()
        raise
    replay.begin()
    return reader


class Opening:
    """A connection that is about to be made; await it, or enter it with ``async with``."""

    def __init__(self, arguments: _Any) -> None:
        self._arguments = arguments
        self._reader: AsyncReader | None = None
        self._given_up = threading.Event()

    def __repr__(self) -> str:
        what = self._arguments.name or str(self._arguments.file)
        return f"<zbuf connection to {what!r}: await it, or enter it with async with>"

    def _check(self) -> None:
        if self._given_up.is_set():
            raise ProducerNotFound(f"nobody waits for producer {self._arguments.name!r} any more")

    def __await__(self) -> Generator[Any, None, AsyncReader]:
        return self._connect().__await__()

    async def _connect(self) -> AsyncReader:
        # In a thread: the producer may have a filter to compile, and memory to reserve, before it answers.
        opening = asyncio.get_running_loop().run_in_executor(None, _open, self._arguments, self._check)
        try:
            return AsyncReader(await asyncio.shield(opening))
        except asyncio.CancelledError:
            self._given_up.set()
            opening.add_done_callback(_close_unwanted)
            raise

    async def __aenter__(self) -> AsyncReader:
        self._reader = await self._connect()
        return self._reader

    async def __aexit__(self, *exception: object) -> None:
        if self._reader is not None:
            self._reader.close()


@takes(_Any)
def connect_async(arguments: _Any) -> Opening:
    """Connect to a producer from asyncio: enter this with ``async with``, or await it.

    The arguments are those of connect(). An AsyncReader never looks for packets longer than a moment, so `wait` and
    `spin_us` mean nothing here.

    Returns:
        What becomes an AsyncReader when it is awaited or entered; it raises as connect() does, at that moment.
    """
    return Opening(msgspec.structs.replace(arguments, wait="sleep", spin_us=0))


def _close_unwanted(opening: "asyncio.Future[Reader | ReconnectingReader]") -> None:
    """Close a reader that came after everybody had stopped waiting for it."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
