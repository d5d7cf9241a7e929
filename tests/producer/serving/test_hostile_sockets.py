"""Clients whose sockets are the weapon: what they send along, leave unread or hold open keeps nobody else waiting."""

import contextlib
import json
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import LIMIT_S, Lab, Remote, wait_stopped

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import Producer
from zbuf.producer.serving import session
from zbuf.producer.serving.access import Peer, Rule
from zbuf.producer.serving.peer_socket import refuse_rights
from zbuf.shared.errors import ControlError

STATS = b'{"type":"stats"}'


@pytest.fixture
def old_kernel(remote: Callable[[], Remote], producer_name: str) -> Lab:
    """A producer on a kernel that can't refuse file descriptors for it."""
    process = remote()
    process.do("import zbuf.producer.serving.server as server; server.refuse_rights = lambda listening: False")
    return Lab(process, producer_name)


@pytest.fixture
def client(run_dir: Path, producer_name: str) -> Iterator[socket.socket]:
    """A control connection by hand, connected by connect_to()."""
    del run_dir, producer_name
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.settimeout(LIMIT_S)
        yield one


@contextlib.contextmanager
def clogged() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A socket whose close() waits a minute, since its peer, which is given as well, reads nothing."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        one = socket.create_connection(listening.getsockname())
        deaf, _ = listening.accept()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(65536))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    with deaf:
        yield one, deaf


def path_of(run_dir: Path, name: str) -> str:
    return str(run_dir / f"{name}.sock")


@pytest.mark.parametrize(
    "before", [[], [b"rubbish"], [b""], [STATS]], ids=["alone", "after rubbish", "after nothing", "after stats"]
)
def test_socket_that_blocks_when_it_is_closed_keeps_nobody_waiting(
    old_kernel: Lab, client: socket.socket, run_dir: Path, before: list[bytes]
) -> None:
    with connect(old_kernel.name, timeout_ms=10, buffer_size=4096) as reader, clogged() as (weapon, _):
        client.connect(path_of(run_dir, old_kernel.name))
        old_kernel.process.signal(signal.SIGSTOP)  # so that it is the last who has the socket, when it reads this
        wait_stopped(old_kernel.process.pid)
        for data in before:
            client.send(data)
        socket.send_fds(client, [STATS], [weapon.fileno()])
        weapon.close()
        old_kernel.process.signal(signal.SIGCONT)
        if before != [STATS]:
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1 << 16):  # until it is hung up on
                    pass
        for _ in range(3):
            with Connection(old_kernel.name) as other:
                assert other.stats().producer == old_kernel.name
        old_kernel.append(1)
        assert reader.next_buffer(timeout=LIMIT_S) is not None
        old_kernel.process.do("import time; began = time.monotonic(); producer.close()")
        assert old_kernel.process.ask("time.monotonic() - began") < LIMIT_S / 2


def test_file_descriptors_with_a_request_end_that_connection_alone(
    old_kernel: Lab, client: socket.socket, run_dir: Path
) -> None:
    with Connection(old_kernel.name) as other:
        other.stats()
        before = old_kernel.process.fds
        client.connect(path_of(run_dir, old_kernel.name))
        socket.send_fds(client, [STATS], [0])
        answer = json.loads(client.recv(1 << 16))
        assert answer == {"type": "refusal", "reason": "file descriptors came with a request: send none"}
        assert client.recv(1) == b""
        old_kernel.wait_fds(before)
        other.stats()


def test_file_descriptors_can_not_be_sent_where_the_kernel_can_refuse_them(
    client: socket.socket, run_dir: Path, producer_name: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as any_socket:
        if not refuse_rights(any_socket):
            pytest.skip("needs SO_PASSRIGHTS, of Linux 6.16")
    with Producer(producer_name):
        client.connect(path_of(run_dir, producer_name))
        with pytest.raises(PermissionError):
            socket.send_fds(client, [STATS], [0])
        client.send(STATS)
        assert client.recv(1 << 16).startswith(b'{"type":"statistics"')


def test_connection_that_asks_for_nothing_ends_and_one_that_has_asked_stays(
    client: socket.socket, run_dir: Path, producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_FIRST_REQUEST_S", 0.1)
    with Producer(producer_name), Connection(producer_name) as asking, connect(producer_name) as reader:
        asking.stats()
        client.connect(path_of(run_dir, producer_name))
        assert b"no request came within 0.1 s: ask at once" in client.recv(1 << 16)
        assert client.recv(1) == b""
        assert asking.stats().producer == reader.stats().producer == producer_name


# ---- the thread that talks to clients -------------------------------------------------------------------------------


@pytest.mark.usefixtures("run_dir")
def test_time_passes_and_the_producer_ends_though_the_control_thread_is_stuck(producer_name: str) -> None:
    stuck, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        stuck.set()
        go_on.wait(LIMIT_S)

    producer = Producer(producer_name, linger_s=0)
    try:
        assert producer.answers(LIMIT_S)
        with connect(producer_name, timeout_ms=10, buffer_size=4096) as reader:
            producer._control._soon(wait)
            assert stuck.wait(LIMIT_S)
            assert not producer.answers(0.01)
            producer.append(b"a packet")
            assert reader.next_buffer(timeout=LIMIT_S) is not None
            producer.close()
            assert not go_on.is_set()
            assert reader.next_buffer(timeout=LIMIT_S) is None
            assert reader.end_reason == "closed"
    finally:
        go_on.set()
        producer.close()


# ---- answers that are large -----------------------------------------------------------------------------------------

INTERFACES = [f"{number:05}{'x' * 200}" for number in range(2000)]


@pytest.mark.usefixtures("run_dir")
def test_answers_that_are_larger_than_a_datagram_come_in_parts(producer_name: str) -> None:
    with Producer(producer_name, interfaces=INTERFACES) as producer, connect(producer_name, timeout_ms=10) as reader:
        assert [one.name for one in reader.interfaces] == INTERFACES
        assert reader.stats().interfaces == INTERFACES
        producer.append(b"a packet", interface=1999)
        assert [packet.interface for packet in reader.next_buffer(timeout=LIMIT_S) or ()] == [1999]


@pytest.mark.usefixtures("run_dir")
def test_answer_that_is_too_large_for_any_client_is_a_refusal(
    producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbuf.shared.control.wire.ANSWER_BYTES_MAX", 400_000)
    with Producer(producer_name, interfaces=INTERFACES), Connection(producer_name) as control:
        for _ in range(2):  # the connection goes on
            with pytest.raises(ControlError, match=r"the answer has \d+ bytes, and can't have more than 400000"):
                control.stats()
        with pytest.raises(ControlError, match=r"the answer has \d+ bytes"):
            connect(producer_name)


def test_client_that_does_not_read_a_large_answer_keeps_nobody_waiting(
    client: socket.socket, run_dir: Path, producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zbuf.producer.serving.peer_socket._SEND_S", 0.2)
    with Producer(producer_name, interfaces=INTERFACES), Connection(producer_name) as other:
        client.connect(path_of(run_dir, producer_name))
        client.send(STATS)
        assert other.stats().interfaces == INTERFACES
        parts = threading.Event()
        parts.wait(0.4)  # longer than the producer waits
        found = b""
        while part := client.recv(1 << 16):
            found += part
        assert 0 < len(found) < 400_000


# ---- what statistics tell -------------------------------------------------------------------------------------------

RESTRICTED, FREE = 64001, 64002
RULES = [Rule(users=[str(RESTRICTED)], filter="udp port 1", interfaces=["lo"]), Rule(users=[str(FREE)])]
SECRETS = ("secret0", "investigation", "192.0.2.77", str(FREE))


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """user(uid): whoever connects from now on is this user, as far as producers in this process know."""
    now = [0]
    monkeypatch.setattr(Peer, "of", classmethod(lambda cls, _: cls(os.getpid(), now[0], frozenset({now[0]}))))

    def become(uid: int) -> None:
        now[0] = uid

    return become


@pytest.mark.usefixtures("run_dir")
def test_peer_learns_nothing_of_what_its_grant_does_not_show(producer_name: str, user: Callable[[int], None]) -> None:
    with Producer(producer_name, interfaces=["secret0", "lo"], allow=RULES) as producer:
        user(FREE)
        with connect(producer_name, join="investigation", filter="host 192.0.2.77", buffer_size=4096) as free:
            connect(producer_name, buffer_size=4096).close()
            user(RESTRICTED)
            with connect(producer_name, buffer_size=4096, filter="udp") as mine, Connection(producer_name) as control:
                found = control.stats()
                assert [one.settings.filter for one in found.descriptors] == ["udp"]
                assert [one.user for one in found.descriptors[0].readers] == [RESTRICTED]
                assert (found.interfaces, found.linktypes, found.closed.received) == (["lo"], [1], 0)
                told = f"{found} {mine.prologue!r} {mine.interfaces} {mine.warnings}"
                assert [secret for secret in SECRETS if secret in told] == []
                assert [one.name for one in mine.interfaces] == ["", "lo"]
            user(0)
            with Connection(producer_name) as control:
                assert control.stats().descriptors == producer.stats().descriptors
                assert control.stats().interfaces == ["secret0", "lo"]
            assert [one.name for one in free.interfaces] == ["secret0", "lo"]


@pytest.mark.usefixtures("run_dir")
def test_peer_sees_of_others_with_its_own_grant_the_ledger_alone(
    producer_name: str, user: Callable[[int], None]
) -> None:
    with Producer(producer_name) as producer:
        user(FREE)
        with connect(producer_name, join="investigation", filter="host 192.0.2.77", buffer_size=4096):
            user(RESTRICTED)
            with Connection(producer_name) as control, connect(producer_name, buffer_size=4096) as mine:
                producer.append(b"a packet")
                other, own = control.stats().descriptors
                assert (own.descriptor, own.received) == (mine.descriptor, 1)
                assert (other.join, other.settings.filter, other.received, other.filtered) == (None, "", 1, 1)
                assert [(one.user, one.pid) for one in other.readers] == [(None, 0)]
            with connect(producer_name, join="investigation") as joined:  # who shares it knows it
                [shared] = joined.stats().descriptors
                assert (shared.join, shared.settings.filter) == ("investigation", "host 192.0.2.77")
                assert [(one.user, one.pid) for one in shared.readers] == [(None, 0), (RESTRICTED, os.getpid())]
