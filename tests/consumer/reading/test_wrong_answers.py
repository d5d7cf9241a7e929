"""A producer that answers wrongly, in well-formed messages: its reader gets an error of one line, and nothing leaks."""

import contextlib
import gc
import json
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_producer import FakeProducer
from support.processes import open_fds

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.shared import control
from zbuf.shared.control import wire
from zbuf.shared.errors import ControlError, Refused, ZbufError


@pytest.fixture
def fake(producer_name: str, run_dir: Path) -> Iterator[FakeProducer]:
    with contextlib.closing(FakeProducer(producer_name, run_dir)) as producer:
        yield producer


def served(fake: FakeProducer, raw: bytes | None, ask: Callable[[], Any]) -> str:
    """What is raised where `ask` is answered so; a ZbufError of one line it must be, and nothing stays open."""
    gc.collect()  # what earlier tests left open is closed now, and not in between
    before = open_fds()
    thread = threading.Thread(target=fake.serve, args=(raw,))
    thread.start()
    try:
        with pytest.raises(ZbufError) as caught:
            ask()
    finally:
        thread.join()
    assert fake.connection is not None
    fake.connection.close()
    said = str(caught.value)
    assert "\n" not in said
    caught.value.__traceback__ = None
    del caught
    assert open_fds() == before
    return said


WRONG: list[tuple[str, Any]] = [
    ("sequence", -1),
    ("sequence", 2**63),
    ("sequence", 2**64),
    ("sequence", 2**70),
    ("descriptor", -1),
    ("descriptor", 2**70),
    ("reader", -1),
    ("offered", -1),
    ("offered", 2**70),
    ("snaplen", 0),
    ("snaplen", -1),
    ("snaplen", 2**40),
    ("linktype", -1),
    ("producer", "two\nlines"),
    ("producer", "x" * 1000),
    ("interfaces", []),
    ("interfaces", ["e"] * 10_000),
    ("no\nsuch", 1),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_answer_with_a_value_that_can_not_be_is_an_error(fake: FakeProducer, key: str, value: Any) -> None:
    fake.answer[key] = value
    served(fake, None, lambda: connect(name_of(fake), timeout_ms=0))


def name_of(fake: FakeProducer) -> str:
    return Path(fake.listening.getsockname()).parent.name


@pytest.mark.parametrize("fds", [[], [0, 1], [0, 1, 2, 0, 1]], ids=["none", "two", "five"])
def test_answer_with_another_number_of_file_descriptors_is_an_error(fake: FakeProducer, fds: list[int]) -> None:
    fake.fds[:] = [fake.fds[number] for number in fds]
    assert "file descriptors: is this a zbuf producer" in served(fake, None, lambda: connect(name_of(fake)))


OTHERS: dict[str, dict[str, Any]] = {
    "done": {"type": "done"},
    "parts of nothing": {"type": "parts", "bytes": 0},
    "parts of too much": {"type": "parts", "bytes": 2**40},
}


@pytest.mark.parametrize("answer", OTHERS.values(), ids=OTHERS)
def test_answer_of_another_type_is_an_error(fake: FakeProducer, answer: dict[str, Any]) -> None:
    raw = json.dumps(answer).encode()
    served(fake, raw, lambda: connect(name_of(fake)))
    fake.fds.clear()

    def ask() -> None:
        with Connection(name_of(fake)) as connection:
            connection.stats()

    served(fake, raw, ask)


def test_refusal_that_is_several_lines_is_told_in_one(fake: FakeProducer) -> None:
    raw = json.dumps({"type": "refusal", "reason": "no\nzbuf: all is well\x1b[2J"}).encode()
    assert served(fake, raw, lambda: connect(name_of(fake))) == r"no\nzbuf: all is well\x1b[2J"


# ---- file descriptors -----------------------------------------------------------------------------------------------


@pytest.fixture
def strange() -> Iterator[dict[str, int]]:
    """File descriptors that are neither a segment, nor an ack page, nor a doorbell."""
    with contextlib.ExitStack() as cleaning:

        def opened(path: str, flags: int) -> int:
            fd = os.open(path, flags)
            cleaning.callback(os.close, fd)
            return fd

        file = cleaning.enter_context(tempfile.TemporaryFile())
        file.truncate(100_000)
        reading, writing = os.pipe()
        cleaning.callback(os.close, reading)
        cleaning.callback(os.close, writing)
        yield {
            "a pipe": reading,
            "/dev/null": opened("/dev/null", os.O_RDWR),
            "a directory": opened("/", os.O_RDONLY),
            "O_PATH": opened("/", os.O_PATH),
            "write-only": opened(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY),
            "read-only": opened(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY),
            "datagrams": cleaning.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).fileno(),
        }


@pytest.mark.parametrize(
    "kind", ["a pipe", "/dev/null", "a directory", "O_PATH", "write-only", "read-only", "datagrams"]
)
@pytest.mark.parametrize("place", ["segment", "ack page", "doorbell"])
def test_file_descriptor_of_another_kind_is_an_error(
    fake: FakeProducer, strange: dict[str, int], kind: str, place: str
) -> None:
    which = ["segment", "ack page", "doorbell"].index(place)
    kept, fake.fds[which] = fake.fds[which], os.dup(strange[kind])
    said = served(fake, None, lambda: connect(name_of(fake)))
    assert place in said
    fake.fds.append(kept)


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the client's end, whose kernel waits 5 s for an answer, and the producer's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 5, 0))
        yield ours, theirs


def test_parts_are_put_together(pair: tuple[socket.socket, socket.socket]) -> None:
    answer = control.Refusal(reason="x" * 100_000)
    for part in wire.parts_of(wire.encode(answer)):
        pair[1].send(part)
    assert wire.receive_answer(pair[0]) == (answer, [])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([b'{"type":"parts","bytes":10}', b"x" * 11], "answer of 11 bytes that was to have 10"),
        ([b'{"type":"parts","bytes":4}', b"null"], "malformed answer"),
        ([b'{"type":"parts","bytes":27}', b'{"type":"parts","bytes":27}'], "parts in parts"),
        ([b'{"type":"parts","bytes":27}', b"x", None], "closed the connection"),
    ],
)
def test_parts_that_are_no_answer_are_an_error(
    pair: tuple[socket.socket, socket.socket], sent: list[bytes | None], said: str
) -> None:
    for part in sent:
        if part is None:
            pair[1].close()
        else:
            pair[1].send(part)
    with pytest.raises(ControlError, match=said):
        wire.receive_answer(pair[0])


def test_parts_that_trickle_in_have_to_be_there_in_time(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_PARTS_S", 0.0)
    pair[1].send(b'{"type":"parts","bytes":1000}')
    for _ in range(10):
        pair[1].send(b"x")
    with pytest.raises(ControlError, match="has not sent its whole answer within 0 s"):
        wire.receive_answer(pair[0])


def test_refused_is_a_control_error() -> None:
    assert issubclass(Refused, ControlError)
