"""An HTTP server for a handful of clients, which stay a moment: whatever they do, it takes one thread and few files.

A request and its answer have a deadline, all in all. While as many clients are there as there may be, a new one takes
the place of the one that came first, so that a client which asks at once is answered among thousands that don't.
"""

import asyncio
import contextlib
import http
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from zbuf.producer.serving.workers import Workers

_CLIENTS_MAX = 32
_DEADLINE_S = 5.0
_HEAD_BYTES_MAX = 8192
_BACKLOG, _ACCEPTED_AT_ONCE = 128, 16
_WORKERS = 2
_END_S = 1.0


@dataclass
class Request:
    """What a client asks for; a GET."""

    path: str
    query: str
    headers: dict[str, str]
    """By their names in lower case."""


@dataclass
class Response:
    """What it is answered."""

    status: http.HTTPStatus
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("Content-Type", "text/plain; charset=utf-8")])

    @classmethod
    def text(cls, status: http.HTTPStatus, text: str) -> "Response":
        """A line of text."""
        return cls(status, f"{text}\n".encode())

    def encode(self) -> bytes:
        """The answer as it goes over the connection, which ends with it."""
        headers = [*self.headers, ("Content-Length", str(len(self.body))), ("Connection", "close")]
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class HttpServer:
    """Listens from its making on, and answers from start() to close().

    Args:
        host: the name or address to listen on.
        port: the port to listen on; 0 for any free port.

    Raises:
        OSError: this address can't be used.
        OverflowError: there is no such port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._answer: Callable[[Request], Response] | None = None
        self._clients: dict[asyncio.Task[None], None] = {}  # in the order in which they came
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self, answer: Callable[[Request], Response]) -> None:
        """Answer requests from now on.

        Args:
            answer: makes a response; called in one of two threads that are for nothing else.
        """
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="zbuf-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering, and give the port back."""
        if self._thread is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(_END_S)
        self._socket.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(Workers(_WORKERS, "zbuf-metrics"))
        loop.set_exception_handler(lambda *_: None)  # out of file descriptors: asyncio tries again
        server = await asyncio.start_server(
            self._serve, sock=self._socket, limit=_HEAD_BYTES_MAX, backlog=_ACCEPTED_AT_ONCE
        )
        # asyncio accepts as many in one go as it thinks may wait. More may: else they try again after a second.
        self._socket.listen(_BACKLOG)
        await self._stopped.wait()
        server.close()
        for task in list(self._clients):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        if len(self._clients) >= _CLIENTS_MAX:
            first = next(iter(self._clients))
            del self._clients[first]
            first.cancel()
        self._clients[task] = None
        writer.transport.set_write_buffer_limits(0)  # drain() waits until the kernel has everything
        try:
            async with asyncio.timeout(_DEADLINE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write((await self._respond(head)).encode())
                await writer.drain()
            writer.close()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._clients.pop(task, None)

    async def _respond(self, head: bytes) -> Response:
        method, request = _parse(head)
        if request is None:
            return Response.text(http.HTTPStatus.BAD_REQUEST, "this is not an HTTP request")
        if method != "GET":
            return Response.text(http.HTTPStatus.METHOD_NOT_ALLOWED, "GET is all that there is")
        assert self._answer is not None  # noqa: S101  (start() sets it)
        return await asyncio.to_thread(self._answer, request)


def _parse(head: bytes) -> tuple[str, Request | None]:
    """The method and the request in the head of an HTTP message (RFC 9112)."""
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return "", None
    path, _, query = words[1].partition("?")
    fields = [line.partition(":") for line in lines]
    return words[0], Request(path, query, {name.strip().lower(): value.strip() for name, _, value in fields})
