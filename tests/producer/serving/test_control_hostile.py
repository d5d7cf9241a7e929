"""Clients that mean harm, or are broken: whatever they do, the producer and everybody else go on.

Each test has a producer in a process of its own, and a bystander that must get every packet, before and after.  In the
end the ledgers add up, the producer has no more files open than it had, and it has nothing to complain of.
"""

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import mmap
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import LIMIT_S, Lab, Remote, number_of, numbered, open_fds, take, take_all

from zbuf.consumer import Reader, connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import Producer
from zbuf.shared.errors import ControlError, Refused

PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""
REQUEST_BYTES_MAX = 16 * 1024
CONNECT = b'{"type":"connect"}'
STATS = b'{"type":"stats"}'
DESCRIPTORS_MAX, READERS_MAX, CONNECTIONS_MAX = 64, 256, 512  # of a producer that was not told otherwise


class RawClient:
    """A client that sends what it likes."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", LIMIT_S, 0))
        self.socket.connect(path)  # blocking, so that it waits for its turn; settimeout() would end that at once
        self.socket.settimeout(LIMIT_S)
        self.fds: list[int] = []

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        socket.send_fds(self.socket, [data], fds or [])

    def receive(self) -> Any:
        """The next answer; None where the producer hung up."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 16)
        except ConnectionResetError:  # it hung up before it read what we sent last; its last word comes all the same
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 16)
        self.fds += fds
        return json.loads(data) if data else None

    def ask(self, data: bytes) -> Any:
        with contextlib.suppress(BrokenPipeError):  # refused already: then there is an answer all the same
            self.send(data)
        return self.receive()

    def ask_all(self, **request: Any) -> Any:
        return self.ask(json.dumps(request).encode())

    def close(self) -> None:
        self.socket.close()
        while self.fds:
            os.close(self.fds.pop())


class Clients:
    """Makes clients, and closes them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._cleaning = contextlib.ExitStack()

    def __call__(self) -> RawClient:
        return self._cleaning.enter_context(contextlib.closing(RawClient(self._path)))

    def close(self) -> None:
        self._cleaning.close()


@pytest.fixture
def client(lab: Lab, run_dir: Path) -> Iterator[Clients]:
    """client(): a connection to the producer that sends what it likes."""
    with contextlib.closing(Clients(str(run_dir / f"{lab.name}.sock"))) as clients:
        yield clients


@pytest.fixture(autouse=True)
def bystander(lab: Lab, client: Clients, tmp_path: Path) -> Iterator[Reader]:
    """Who must not be harmed; checks at the end of each test that nobody was."""
    del client  # so that what clients have open is closed after this
    complaints = tmp_path / "stderr"
    lab.process.do("os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)", path=str(complaints))
    connect(lab.name, filter="tcp").close()  # the producer has started what compiles filters
    with connect(lab.name, buffer_size=1 << 20) as reader:
        reader.stats()  # what the producer had open to answer the connect is closed when it answers this
        lab.append(10)
        yield reader
        last = lab.append(10)[-1]
        reader.rotate()
        found: list[int] = []
        while last not in found[-1:]:
            found += take(reader, 1)
        assert found == list(range(last + 1))
        for ledger in lab.descriptors():
            accepted = ledger.delivered + ledger.dropped + ledger.abandoned + ledger.buffered
            assert (ledger.received, ledger.accepted) == (ledger.filtered + ledger.accepted, accepted)
            assert ledger.descriptor != reader.descriptor or ledger.dropped == 0
        with connect(lab.name, buffer_size=PAGE) as newcomer:
            assert newcomer.stats().pid == lab.process.pid
    lab.process.do("import gc; gc.collect()")
    assert complaints.read_text() == ""


@contextlib.contextmanager
def files_unchanged(lab: Lab) -> Iterator[None]:
    """In the end the producer has as many files open as before, and as many segments."""
    files, segments = lab.process.fds, len(segments_of(lab))
    yield
    lab.wait_fds(files)
    assert len(segments_of(lab)) == segments


def segments_of(lab: Lab) -> list[Path]:
    return list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*"))


def as_json(**request: Any) -> bytes:
    return json.dumps(request).encode()


# ---- bytes that are not requests ------------------------------------------------------------------------------------


MALFORMED = {
    "half an object": b'{"type":"connect"',
    "null": b"null",
    "number": b"17",
    "string": b'"connect"',
    "array": b"[]",
    "nothing but zeros": bytes(100),
    "no UTF-8": b'{"type":"\xff\xfe"}',
    "no type": b"{}",
    "type of a number": b'{"type":7}',
    "type of null": b'{"type":null}',
    "type that is none": b'{"type":"shutdown"}',
    "type of an answer": b'{"type":"done"}',
    "type twice": b'{"type":"stats","type":"nosuch"}',
    "something behind": b'{"type":"stats"} {"type":"stats"}',
    "field that is none": as_json(type="connect", nosuch=1),
    "setting that is none": as_json(type="connect", settings={"nosuch": 1}),
    "abi of text": as_json(type="connect", abi="1"),
    "abi of a fraction": as_json(type="connect", abi=1.5),
    "abi without end": b'{"type":"connect","abi":1' + b"0" * 5000 + b"}",
    "join of a number": as_json(type="connect", join=7),
    "join of nothing": as_json(type="connect", join=""),
    "join too long": as_json(type="connect", join="x" * 49),
    "settings of an array": as_json(type="connect", settings=[]),
    "snaplen of zero": as_json(type="connect", settings={"snaplen": 0}),
    "snaplen too large": as_json(type="connect", settings={"snaplen": 262_145}),
    "snaplen enormous": as_json(type="connect", settings={"snaplen": 2**70}),
    "snaplen of a fraction": as_json(type="connect", settings={"snaplen": 1.5}),
    "snaplen that is no number": b'{"type":"connect","settings":{"snaplen":NaN}}',
    "timeout negative": as_json(type="connect", settings={"timeout_ms": -1}),
    "timeout enormous": as_json(type="connect", settings={"timeout_ms": 2**63}),
    "direction that is none": as_json(type="connect", settings={"direction": "up"}),
    "immediate of a number": as_json(type="connect", settings={"immediate": 1}),
    "buffer of text": as_json(type="connect", settings={"buffer_bytes": "1M"}),
    "buffer of a fraction": as_json(type="connect", settings={"buffer_bytes": 4096.5}),
    "filter of a number": as_json(type="connect", settings={"filter": 7}),
    "filter of null": as_json(type="setfilter", filter=None),
    "filter too long": as_json(type="setfilter", filter="x" * 9000),
    "filter missing": as_json(type="setfilter"),
    "half a surrogate": b'{"type":"setfilter","filter":"\\ud800"}',
    "flush of text": as_json(type="setfilter", filter="", flush="yes"),
    "deep arrays": b"[" * 16_000,
    "deep objects": b'{"a":' * 3_000,
    "deep settings": b'{"type":"connect","settings":' + b"[" * 15_000,
    "one byte too long": STATS + b" " * (REQUEST_BYTES_MAX + 1 - len(STATS)),
    "far too long": STATS + b" " * 150_000,
    "empty": b"",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_request_that_is_none_ends_that_connection_with_a_word_of_why(lab: Lab, client: Clients, data: bytes) -> None:
    with files_unchanged(lab):
        one = client()
        one.send(data)
        answer = one.receive()
        if data:  # an empty datagram can't be told from the end of the connection
            assert answer["type"] == "refusal"
            assert "request" in answer["reason"]
            assert "\n" not in answer["reason"]
            assert len(answer["reason"]) < 500
            assert one.receive() is None
        else:
            assert answer is None
        one.close()


def test_request_of_the_largest_size_is_answered(client: Clients) -> None:
    one = client()
    for _ in range(3):
        assert one.ask(STATS + b" " * (REQUEST_BYTES_MAX - len(STATS)))["type"] == "statistics"


def test_random_bytes_are_answered_or_end_the_connection(lab: Lab, client: Clients) -> None:
    chance = random.Random(7)
    with files_unchanged(lab):
        for _ in range(200):
            one = client()
            one.send(chance.randbytes(chance.randrange(1, 2000)))
            assert one.receive()["type"] == "refusal"
            one.close()


def test_requests_with_one_byte_changed_are_answered_or_end_the_connection(lab: Lab, client: Clients) -> None:
    chance = random.Random(8)
    request = as_json(type="connect", abi=1, join="g", settings={"filter": "tcp", "snaplen": 96, "buffer_bytes": PAGE})
    with files_unchanged(lab):
        for _ in range(200):
            data = bytearray(request)
            data[chance.randrange(len(data))] = chance.randrange(256)
            one = client()
            one.send(bytes(data))
            assert one.receive()["type"] in ("refusal", "connected")
            one.close()


# ---- requests out of order, or that can't be granted: the connection goes on ----------------------------------------


@pytest.mark.parametrize(
    "request_", [b'{"type":"rotate"}', b'{"type":"flush"}', b'{"type":"setfilter","filter":"tcp"}']
)
def test_request_before_connect_is_refused_and_the_connection_goes_on(client: Clients, request_: bytes) -> None:
    one = client()
    for _ in range(3):
        answer = one.ask(request_)
        assert (answer["type"], "connect first" in answer["reason"]) == ("refusal", True)
    assert one.ask(CONNECT)["type"] == "connected"
    assert one.ask(request_)["type"] == "done"


def test_second_connect_is_refused_and_the_first_goes_on(lab: Lab, client: Clients) -> None:
    one = client()
    assert one.ask(CONNECT)["type"] == "connected"
    for request in (CONNECT, as_json(type="connect", join="g")):
        answer = one.ask(request)
        assert (answer["type"], "has a descriptor already" in answer["reason"]) == ("refusal", True)
    assert len(one.fds) == 3
    assert len(lab.descriptors()) == 2
    lab.append()
    assert one.ask_all(type="rotate") == {"type": "done", "changed": True, "warnings": []}


def test_leaving_and_connecting_again_on_one_connection_leaks_nothing(lab: Lab, client: Clients) -> None:
    one = client()
    one.ask(STATS)
    with files_unchanged(lab):
        for _ in range(50):
            assert one.ask_all(type="leave")["type"] == "done"
            assert one.ask_all(type="connect", settings={"buffer_bytes": PAGE})["type"] == "connected"
            assert one.ask_all(type="rotate")["type"] == "done"
            assert one.ask_all(type="leave")["type"] == "done"
            assert one.ask_all(type="rotate")["type"] == "refusal"
            while one.fds:
                os.close(one.fds.pop())
    assert len(lab.descriptors()) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"buffer_bytes": 0}, "buffer size 0"),
        ({"buffer_bytes": -PAGE}, "buffer size -4096"),
        ({"buffer_bytes": 5000}, "buffer size 5000"),
        ({"buffer_bytes": (1 << 30) + PAGE}, "buffer size 1073745920"),
        ({"buffer_bytes": 2**63}, ""),
        ({"filter": "foo bar"}, "syntax error"),
        ({"filter": "tcp\0"}, "NUL"),
        ({"filter": "(" * 4000}, "filter"),
        ({"filter": "not " * 1000}, "filter"),
        ({"filter": "\n" * 4000 + "x y z"}, "filter"),
    ],
)
def test_settings_that_can_not_be_granted_are_refused_and_the_connection_goes_on(
    lab: Lab, client: Clients, settings: dict[str, Any], why: str
) -> None:
    one = client()
    assert one.ask(STATS)["type"] == "statistics"
    with files_unchanged(lab):
        answer = one.ask_all(type="connect", settings=settings)
        assert (answer["type"], why in answer["reason"]) == ("refusal", True)
        assert one.fds == []
    assert one.ask(CONNECT)["type"] == "connected"


@pytest.mark.parametrize("join", ["a/b", ".", "../up", "\0", "a\nb", "ä"])
def test_group_name_that_can_not_be_is_refused(client: Clients, join: str) -> None:
    answer = client().ask_all(type="connect", join=join)
    assert (answer["type"], "group name" in answer["reason"], "\n" in answer["reason"]) == ("refusal", True, False)


@pytest.mark.parametrize("abi", [0, 1, -1, 2**62])
def test_other_abi_is_refused_with_both_numbers(client: Clients, abi: int) -> None:
    answer = client().ask_all(type="connect", abi=abi)
    assert answer["type"] == "refusal"
    assert f"speaks ABI 2, the client {abi}" in answer["reason"]


# ---- file descriptors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [STATS, CONNECT, b"rubbish"])
def test_file_descriptors_that_are_sent_along_do_not_stay(lab: Lab, client: Clients, data: bytes) -> None:
    reading, writing = os.pipe()
    with files_unchanged(lab):
        one = client()
        try:
            one.send(data, [reading] * 250)
        except PermissionError:  # the kernel lets nobody send any (SO_PASSRIGHTS)
            one.send(data)
        os.close(reading)
        assert one.receive() is not None
        one.close()
    with pytest.raises(BrokenPipeError):  # nobody has the other end open any more
        os.write(writing, b"!")
    os.close(writing)


def test_producer_that_runs_out_of_file_descriptors_refuses_and_recovers(lab: Lab, client: Clients) -> None:
    with files_unchanged(lab):
        first = client()
        first.ask(STATS)
        lab.process.do("import resource; limits = resource.getrlimit(resource.RLIMIT_NOFILE)")
        lab.process.do("resource.setrlimit(resource.RLIMIT_NOFILE, (open_fds() + 60, limits[1]))")
        reasons = set()
        for _ in range(80):
            one = client()
            one.socket.settimeout(0.5)  # where there is no file descriptor left, nobody is let in for a while
            with contextlib.suppress(TimeoutError):
                answer = one.ask_all(type="connect", settings={"buffer_bytes": PAGE})
                assert answer is not None, "hung up on without a word"
                if answer["type"] == "refusal":
                    reasons.add(answer["reason"])
                    continue
                assert answer["type"] == "connected"
                continue
            break
        assert first.ask(STATS)["type"] == "statistics"
        assert len(segments_of(lab)) == len(lab.descriptors())
        assert all("file" in reason and "\n" not in reason for reason in reasons)
        lab.process.do("resource.setrlimit(resource.RLIMIT_NOFILE, limits)")
        client.close()


# ---- clients that are slow, or many ---------------------------------------------------------------------------------


def test_client_that_never_reads_its_answers_is_hung_up_on(lab: Lab, client: Clients) -> None:
    with files_unchanged(lab):
        one = client()
        with pytest.raises(ConnectionError):
            send_for_ever(one)
        one.close()


def send_for_ever(one: RawClient) -> None:
    for _ in range(100_000):
        one.send(STATS)


def test_client_that_never_reads_does_not_keep_others_from_their_answers(
    lab: Lab, client: Clients, bystander: Reader
) -> None:
    mute = [client() for _ in range(20)]
    for one in mute:
        one.send(STATS)
        one.send(CONNECT)
    for _ in range(20):
        assert bystander.stats().pid == lab.process.pid


def test_hundreds_of_connections_are_served_or_refused(lab: Lab, client: Clients) -> None:
    with files_unchanged(lab):
        answers = [client().ask(STATS)["type"] for _ in range(CONNECTIONS_MAX + 50)]
        assert answers[: CONNECTIONS_MAX - 1] == ["statistics"] * (CONNECTIONS_MAX - 1)  # one is the bystander's
        assert set(answers[CONNECTIONS_MAX - 1 :]) == {"refusal"}
        client.close()


def test_hundreds_of_connections_that_ask_nothing_cost_nobody_anything(lab: Lab, client: Clients) -> None:
    with files_unchanged(lab):
        for _ in range(300):
            client()
        numbers = lab.append(5)
        with connect(lab.name) as reader:
            numbers = lab.append(5)
            reader.rotate()
            assert take(reader, 5) == numbers
        client.close()


SMALL = b'{"type":"connect","settings":{"buffer_bytes":4096}}'


@pytest.mark.parametrize("data", [None, STATS, SMALL, b"rubbish"], ids=["nothing", "stats", "connect", "rubbish"])
def test_clients_that_hang_up_at_once_leave_nothing(lab: Lab, client: Clients, data: bytes | None) -> None:
    with files_unchanged(lab):
        for _ in range(100):
            one = client()
            if data is not None:
                one.send(data)
            one.close()
    assert len(lab.descriptors()) == 1


def test_clients_that_hang_up_while_their_filter_compiles_leave_nothing(lab: Lab, client: Clients) -> None:
    ports = " or ".join(f"port {number}" for number in range(1, 50))
    with files_unchanged(lab):
        for _ in range(10):
            one = client()
            one.send(as_json(type="connect", settings={"filter": ports, "buffer_bytes": PAGE}))
            one.close()
        lab.wait_descriptors(1)


SLOW_FILTER = " or ".join(f"port {number}" for number in range(1, 340))
"""libpcap takes a second and more for it, unoptimized, and its optimizer much longer."""


def test_filters_that_take_libpcap_long_keep_nobody_from_connecting(lab: Lab, client: Clients) -> None:
    assert 3900 < len(SLOW_FILTER) <= 4096
    for _ in range(4):  # they are the same user's, whose filters wait for each other
        client().send(as_json(type="connect", settings={"filter": SLOW_FILTER, "buffer_bytes": PAGE}))
    connected = threading.Event()

    def connect_too() -> None:
        with contextlib.suppress(ControlError), connect(lab.name, filter="tcp"):
            connected.set()

    thread = threading.Thread(target=connect_too, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert connected.is_set()


def test_filter_that_takes_libpcap_long_does_not_keep_a_producer_from_closing(
    remote: Callable[[], Remote], producer_name: str, run_dir: Path
) -> None:
    second = Lab(remote(), f"{producer_name}2")
    with contextlib.closing(RawClient(str(run_dir / f"{second.name}.sock"))) as one:
        one.send(as_json(type="connect", settings={"filter": SLOW_FILTER, "buffer_bytes": PAGE}))
        second.close()


def test_statistics_of_as_many_descriptors_as_may_be_with_the_longest_filters_are_answered(
    lab: Lab, client: Clients
) -> None:
    filter_ = "tcp or udp".ljust(4000)
    with files_unchanged(lab):
        for _ in range(DESCRIPTORS_MAX - 2):  # the bystander has one, and a newcomer must have one
            answer = client().ask_all(type="connect", settings={"filter": filter_, "buffer_bytes": PAGE})
            assert answer["type"] == "connected"
        with Connection(lab.name) as connection:
            assert len(connection.stats().descriptors) == DESCRIPTORS_MAX - 1
        client.close()


def test_reader_that_is_stopped_loses_its_own_packets_and_reads_on_when_it_goes_on(
    lab: Lab, remote: Callable[[], Remote]
) -> None:
    process = remote()
    process.do("reader = connect(name, buffer_size=4096)", name=lab.name)
    process.signal(signal.SIGSTOP)
    numbers = lab.append(10 * PER_PAGE)
    stopped = lab.descriptors()[1]
    assert (stopped.received, stopped.dropped, stopped.buffered) == (10 * PER_PAGE, 8 * PER_PAGE, 2 * PER_PAGE)
    process.signal(signal.SIGCONT)
    assert process.ask("take(reader, count)", count=2 * PER_PAGE) == numbers[: 2 * PER_PAGE]
    process.do("reader.next_buffer(timeout=0)")
    numbers = lab.append()
    process.do("reader.rotate()")
    assert process.ask("[(number_of(bytes(one)), one.dropped) for one in reader.next_buffer(timeout=20)]") == [
        (numbers[0], 8 * PER_PAGE)
    ]


def test_reader_that_is_stopped_in_its_sleep_holds_nobody_up(lab: Lab, remote: Callable[[], Remote]) -> None:
    process = remote()
    process.do("reader = connect(name, immediate=True, buffer_size=4096)", name=lab.name)
    process.do("reader.next_buffer(timeout=0)")  # it is announced as a sleeper from here on
    process.signal(signal.SIGSTOP)
    lab.append(5 * PER_PAGE)
    process.kill()
    lab.wait_descriptors(1)


# ---- what a reader is given: the segment, its ack page, its doorbell ------------------------------------------------


def attach(lab: Lab, client: Clients, **settings: Any) -> tuple[RawClient, int, int, int]:
    """A reader by hand: its client, and the file descriptors of the segment, the ack page and the doorbell."""
    one = client()
    answer = one.ask_all(type="connect", settings={"buffer_bytes": PAGE, "timeout_ms": 0} | settings)
    assert answer["type"] == "connected", answer
    segment, ack, doorbell = one.fds
    assert len(segments_of(lab)) == len(lab.descriptors())
    return one, segment, ack, doorbell


def test_segment_can_not_be_written_cut_or_grown(lab: Lab, client: Clients) -> None:
    _, segment, _, _ = attach(lab, client)
    size = os.fstat(segment).st_size
    assert fcntl.fcntl(segment, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    for attempt in (
        lambda: mmap.mmap(segment, size, prot=mmap.PROT_READ | mmap.PROT_WRITE),
        lambda: os.ftruncate(segment, 0),
        lambda: os.ftruncate(segment, 2 * size),
        lambda: os.posix_fallocate(segment, 0, 2 * size),
        lambda: os.pwrite(segment, b"!", 0),
    ):
        with pytest.raises(OSError, match=r"\[Errno (1|9|13|22)\]"):
            attempt()
    assert os.fstat(segment).st_size == size


def test_mapping_of_a_segment_can_not_be_made_writable(lab: Lab, client: Clients) -> None:
    _, segment, _, _ = attach(lab, client)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, PAGE, mmap.PROT_READ, mmap.MAP_SHARED, segment, 0)
    assert libc.mprotect(address, PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    libc.munmap(address, PAGE)


def test_lock_that_tells_that_the_producer_lives_can_not_be_taken_by_a_reader(
    lab: Lab, client: Clients, remote: Callable[[], Remote]
) -> None:
    one = client()
    assert one.ask_all(type="connect", join="g")["type"] == "connected"
    segment = one.fds[0]
    write_lock, read_lock = (
        struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK)
    )
    with pytest.raises(OSError, match=r"\[Errno 9\]"):
        fcntl.fcntl(segment, fcntl.F_OFD_SETLK, write_lock)
    with pytest.raises(BlockingIOError):
        fcntl.fcntl(segment, fcntl.F_OFD_SETLK, read_lock)
    second = Lab(remote(), f"{lab.name}2")
    with connect(second.name) as reader:
        numbers = second.append(3)
        second.kill()
        fcntl.fcntl(reader._segment_fd, fcntl.F_OFD_SETLK, read_lock)  # dead now: it can be had, and fools nobody
        assert take_all(reader) == numbers
        assert reader.end_reason == "producer died"
        with Producer(second.name):
            assert list(Path("/dev/shm").glob(f"zbuf.{second.name}.*")) == []


def test_ack_page_can_not_change_its_size(lab: Lab, client: Clients) -> None:
    _, _, ack, _ = attach(lab, client)
    for size in (0, PAGE - 1, 2 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(ack, size)
    with pytest.raises(PermissionError):
        os.posix_fallocate(ack, 0, 2 * PAGE)
    with pytest.raises(PermissionError):
        fcntl.fcntl(ack, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    numbers = lab.append(3 * PER_PAGE)
    assert len(numbers) == 3 * PER_PAGE


def test_hole_in_an_ack_page_reads_as_zeros(lab: Lab, client: Clients) -> None:
    attach(lab, client)
    _, _, ack, _ = attach(lab, client)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
    lab.append(PER_PAGE + 1)
    assert libc.fallocate(ack, 3, 0, PAGE) == 0  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    lab.append(3 * PER_PAGE)


@pytest.mark.parametrize("seed", range(5))
def test_reader_that_scribbles_all_over_its_ack_page_harms_itself_alone(lab: Lab, client: Clients, seed: int) -> None:
    chance = random.Random(seed)
    _, _, ack, _ = attach(lab, client, immediate=bool(seed % 2))
    enough = threading.Event()

    def scribble() -> None:
        with mmap.mmap(ack, PAGE) as page:
            while not enough.is_set():
                if chance.random() < 0.5:
                    page[:] = chance.randbytes(PAGE)
                else:
                    low = [chance.randrange(200), chance.randrange(200), chance.choice([0, 1, 2**32 - 1])]
                    page[:12] = struct.pack("<3I", *low)

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for _ in range(10):
            lab.append(5 * PER_PAGE)
            found = lab.descriptors()[1]
            accepted = found.delivered + found.dropped + found.abandoned + found.buffered
            assert (found.received, found.received) == (found.accepted, accepted)
            assert found.readers[0].holding in (0, 1, 2)
    finally:
        enough.set()
        thread.join()


def test_reader_of_a_group_that_scribbles_can_not_give_back_what_another_one_holds(lab: Lab, client: Clients) -> None:
    one = client()
    assert one.ask_all(type="connect", join="g", settings={"buffer_bytes": PAGE})["type"] == "connected"
    with connect(lab.name, join="g") as honest, mmap.mmap(one.fds[1], PAGE) as page:
        lab.append(2 * PER_PAGE)
        for generation in range(10):
            page[:8] = struct.pack("<2I", generation, generation)
            lab.append(PER_PAGE)
        first = honest.next_buffer(LIMIT_S)
        assert first is not None
        numbers = [number_of(bytes(packet)) for packet in first]
        assert numbers == list(range(numbers[0], numbers[0] + PER_PAGE))
        assert lab.descriptors()[1].delivered == 0


def test_doorbell_can_be_read_and_no_more(lab: Lab, client: Clients) -> None:
    _, _, _, doorbell = attach(lab, client)
    with pytest.raises(OSError, match=r"\[Errno (9|32)\]"):
        os.write(doorbell, b"!")


def test_doorbell_that_is_never_read_and_blocking_does_not_block_the_producer(lab: Lab, client: Clients) -> None:
    _, _, ack, doorbell = attach(lab, client, immediate=True)
    os.set_blocking(doorbell, True)
    rings = 600  # a socket holds half as many
    with mmap.mmap(ack, PAGE) as page:
        page[8:12] = struct.pack("<I", 1)  # "I sleep: ring"
        for number in range(rings):
            lab.append()
            which, generation = number % 2, number // 2 + 1
            page[4 * which : 4 * which + 4] = struct.pack("<I", generation)
    found = lab.descriptors()[1]
    assert (found.bells, found.delivered, found.dropped) == (rings, rings, 0)


@pytest.mark.parametrize("disposition", ["SIG_IGN", "SIG_DFL"])
def test_doorbell_whose_other_end_is_closed_does_not_kill_the_producer(
    lab: Lab, client: Clients, disposition: str
) -> None:
    # Python ignores SIGPIPE, but many a program that embeds a producer has set it back to its default.
    lab.process.do(f"signal.signal(signal.SIGPIPE, signal.{disposition})")
    one, _, ack, doorbell = attach(lab, client, immediate=True)
    with mmap.mmap(ack, PAGE) as page:
        page[8:12] = struct.pack("<I", 1)
        os.close(doorbell)
        one.fds.remove(doorbell)
        lab.append(PER_PAGE)
    assert lab.descriptors()[1].bells > 0


@pytest.mark.parametrize("disposition", ["SIG_IGN", "SIG_DFL"])
def test_client_that_hangs_up_before_its_answer_does_not_kill_the_producer(
    lab: Lab, client: Clients, disposition: str
) -> None:
    lab.process.do(f"signal.signal(signal.SIGPIPE, signal.{disposition})")
    with files_unchanged(lab):
        for _ in range(50):
            one = client()
            one.send(STATS)
            one.send(CONNECT)
            one.close()


def test_segment_whose_name_somebody_removed_serves_who_has_it_and_refuses_who_comes(lab: Lab) -> None:
    with connect(lab.name, join="g") as reader:
        (path,) = Path("/dev/shm").glob(f"zbuf.{lab.name}.{reader.descriptor}")
        path.unlink()
        with pytest.raises(ControlError) as refused:
            connect(lab.name, join="g")
        assert isinstance(refused.value, Refused)
        numbers = lab.append(3)
        reader.rotate()
        assert take(reader, 3) == numbers
    lab.wait_descriptors(1)


def test_readers_own_files_are_three_and_close_on_exec(lab: Lab) -> None:
    gc.collect()
    before = open_fds()
    with connect(lab.name, buffer_size=PAGE) as reader:
        assert open_fds() - before == 5  # segment, doorbell, connection; and each of the two mappings has one
        for fd in (reader.fileno(), reader._segment_fd, reader._connection.fileno()):
            assert not os.get_inheritable(fd)
        lab.append(1)
        assert take(reader, 1)[0] >= 10
    assert bytes(numbered(0))[:8] == bytes(8)
