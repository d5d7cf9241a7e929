"""The HTTP server of /metrics: slow clients, many clients and rubbish keep nobody from an answer."""

import contextlib
import http
import socket
import threading
from collections.abc import Iterator

import pytest
from support.processes import LIMIT_S

from zbuf.producer.daemon import http_server
from zbuf.producer.daemon.http_server import HttpServer, Request, Response

GET = b"GET /path?a=b HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    one = HttpServer("127.0.0.1", 0)
    with contextlib.closing(one):
        one.start(lambda request: Response.text(http.HTTPStatus.OK, f"{request}"))
        yield one


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def connected(clients: contextlib.ExitStack, server: HttpServer) -> socket.socket:
    return clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=LIMIT_S))


def answer_to(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return everything(client)


def everything(client: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            found += data
    return found


def test_request_is_answered_and_the_connection_ends(server: HttpServer, clients: contextlib.ExitStack) -> None:
    head, _, body = answer_to(connected(clients, server), GET).partition(b"\r\n\r\n")
    assert body.decode() == f"{Request('/path', 'a=b', {'host': 'x', 'accept': 'text/plain', '': ''})}\n"
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: ")


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"rubbish\r\n\r\n", b"400"), (b"\xff\0\r\n\r\n", b"400"), (b"POST / HTTP/1.1\r\n\r\n", b"405")],
)
def test_what_is_no_request_is_told_so(
    server: HttpServer, clients: contextlib.ExitStack, data: bytes, status: bytes
) -> None:
    assert answer_to(connected(clients, server), data).split()[1] == status


def test_head_without_an_end_is_hung_up_on(server: HttpServer, clients: contextlib.ExitStack) -> None:
    client = connected(clients, server)
    with contextlib.suppress(ConnectionError):
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000)
    assert everything(client) == b""


def test_clients_that_ask_nothing_give_way_to_one_that_asks(server: HttpServer, clients: contextlib.ExitStack) -> None:
    assert answer_to(connected(clients, server), GET)
    threads = threading.active_count()
    idle = [connected(clients, server) for _ in range(200)]
    for _ in range(5):
        assert answer_to(connected(clients, server), GET).startswith(b"HTTP/1.1 200")
    assert threading.active_count() == threads
    assert everything(idle[0]) == b""


def test_request_that_trickles_in_is_hung_up_on(
    clients: contextlib.ExitStack, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_DEADLINE_S", 0.1)
    client = connected(clients, server)
    client.sendall(b"GET / HTTP/1.1\r\n")
    assert everything(client) == b""


def test_client_that_does_not_read_its_answer_is_hung_up_on(
    clients: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_DEADLINE_S", 0.2)
    server = HttpServer("127.0.0.1", 0)
    with contextlib.closing(server):
        server.start(lambda _: Response(http.HTTPStatus.OK, bytes(64 << 20)))
        client = connected(clients, server)
        client.sendall(GET)
        threading.Event().wait(0.5)  # longer than the server waits
        assert len(everything(client)) < 64 << 20
