"""The examples, each with a producer whose packets are known: what they print is compared with a count of our own.

consumer.c is built as its first lines say, and once more with the sanitizers, for producers that are hostile.
"""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.captures import Record, read_capture
from support.commands import Commands, wait_line
from support.fake_producer import FakeProducer
from support.processes import LIMIT_S, Lab, Remote, number_of, numbered
from support.project import ROOT
from support.rig import wait_until

from zbuf.producer import Producer, RawPacket
from zbuf.producer.serving.limits import Limits

EXAMPLES = ROOT / "examples"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""
HEADER_BYTES = 128

Process = subprocess.Popen[str]
Start = Callable[..., Process]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """ARP, DNS, HTTP, ICMP, IPv6, VLAN tags, fragments."""
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    subprocess.run([sys.executable, EXAMPLES / "make_capture.py", path], check=True, timeout=60)
    return read_capture(path.read_bytes()).records


@pytest.fixture
def producer(producer_name: str, run_dir: Path) -> Iterator[Producer]:
    """A producer that loses nothing."""
    del run_dir
    with Producer(producer_name, lossless=True) as producer:
        yield producer


@pytest.fixture
def example(commands: Commands) -> Start:
    """example(program, *arguments): an example as a process, killed at the end of the test."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(program: str | Path, *arguments: str | int | Path) -> Process:
        interpreter = [sys.executable] if str(program).endswith(".py") else []
        command = [*interpreter, str(EXAMPLES / program), *map(str, arguments)]
        pipe = subprocess.PIPE
        return commands.adopt(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))

    return start


def publish(producer: Producer, packets: list[Record], readers: int = 1) -> None:
    """Append the packets once the readers are there, and end the stream."""
    broken = threading.Timer(LIMIT_S, producer.stop)  # a reader that never acknowledges would hold us for ever
    broken.start()
    assert producer.wait_readers(readers), "no reader came"
    producer.publish(RawPacket(packet.data, time_ns=packet.time_ns) for packet in packets)
    broken.cancel()
    producer.close()


def wait_delivered(lab: Lab, packets: int) -> None:
    """Wait until the readers have taken so many packets."""
    wait_until(lambda: sum(one.delivered for one in lab.descriptors()) == packets)


def outcome(process: Process) -> tuple[str, str, int]:
    """Wait for its end: its output, its errors, its status."""
    output, errors = process.communicate(timeout=LIMIT_S)
    return output, errors, process.returncode


# ---- consumer.c: what it counts, and how it ends --------------------------------------------------------------------


def build(folder: Path, *flags: str) -> Path:
    command = ["cc", *STRICT, *flags, "-o", str(folder / "consumer"), str(EXAMPLES / "consumer.c")]
    subprocess.run(command, check=True, timeout=120)
    return folder / "consumer"


@pytest.fixture(scope="module")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """consumer.c as people build it."""
    return build(tmp_path_factory.mktemp("consumer"), "-O2")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """consumer.c with the sanitizers, which end it with a report where it does what C does not define."""
    return build(tmp_path_factory.mktemp("sanitized"), *SANITIZERS)


def test_consumer_in_c_counts_a_whole_capture(
    producer: Producer, capture: list[Record], consumer: Path, example: Start
) -> None:
    process = example(consumer, producer.name)
    publish(producer, capture)
    octets = sum(len(packet.data) for packet in capture)
    expected = f"{len(capture)} packets, {octets} bytes, 0 dropped; the producer closed\n"
    assert outcome(process) == (expected, "", 0)


def test_consumer_in_c_takes_hundreds_of_buffers_under_the_sanitizers(
    producer_name: str, run_dir: Path, capture: list[Record], sanitized: Path, example: Start
) -> None:
    with Producer(producer_name, lossless=True, buffer_size=PAGE) as producer:
        process = example(sanitized, producer.name, run_dir)
        publish(producer, capture)
    octets = sum(min(len(packet.data), PAGE - HEADER_BYTES - 32) for packet in capture)
    expected = f"{len(capture)} packets, {octets} bytes, 0 dropped; the producer closed\n"
    assert outcome(process) == (expected, "", 0)


def test_consumer_in_c_that_sleeps_is_woken(lab: Lab, consumer: Path, example: Start) -> None:
    process = example(consumer, lab.name)
    lab.wait_descriptors(1)
    appended = []

    def has_rung() -> bool:
        appended.extend(lab.append(2, size=100))
        wait_delivered(lab, len(appended))
        return bool(lab.descriptors()[0].bells >= 3)  # rung where it sleeps, and there alone

    wait_until(has_rung)
    lab.close()
    expected = f"{len(appended)} packets, {len(appended) * 100} bytes, 0 dropped; the producer closed\n"
    assert outcome(process) == (expected, "", 0)


@pytest.mark.parametrize("built", ["consumer", "sanitized"])
def test_consumer_in_c_gets_all_that_a_killed_producer_had_appended(
    remote: Callable[[], Remote], producer_name: str, built: str, request: pytest.FixtureRequest, example: Start
) -> None:
    lab = Lab(remote(), producer_name, buffer_size=PAGE)
    process = example(request.getfixturevalue(built), lab.name)
    lab.wait_descriptors(1)
    process.send_signal(signal.SIGSTOP)
    lab.process.begin(  # a whole buffer, and a part of one, which no read timeout has the time to assign
        "for number in range(count): producer.append(numbered(number))\nos.kill(os.getpid(), signal.SIGKILL)",
        count=PER_PAGE + 10,
    )
    lab.process.wait_end()
    process.send_signal(signal.SIGCONT)
    expected = f"{PER_PAGE + 10} packets, {60 * (PER_PAGE + 10)} bytes, 0 dropped; the producer died\n"
    assert outcome(process) == (expected, "", 0)


def test_consumer_in_c_that_waits_sees_the_producer_die(lab: Lab, consumer: Path, example: Start) -> None:
    process = example(consumer, lab.name)
    lab.wait_descriptors(1)
    lab.append(5)
    wait_delivered(lab, 5)
    lab.kill()
    assert outcome(process) == ("5 packets, 300 bytes, 0 dropped; the producer died\n", "", 0)


def test_consumer_in_c_tells_what_it_lost_though_no_packet_followed(
    remote: Callable[[], Remote], producer_name: str, consumer: Path, example: Start
) -> None:
    lab = Lab(remote(), producer_name, buffer_size=PAGE)
    process = example(consumer, lab.name)
    lab.wait_descriptors(1)
    process.send_signal(signal.SIGSTOP)
    lab.append(2 * PER_PAGE + 7)
    lab.close()
    process.send_signal(signal.SIGCONT)
    expected = f"{2 * PER_PAGE} packets, {2 * PER_PAGE * 60} bytes, 7 dropped; the producer closed\n"
    assert outcome(process) == (expected, "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_consumer_in_c_that_is_interrupted_tells_what_it_counted(
    lab: Lab, consumer: Path, example: Start, number: int
) -> None:
    process = example(consumer, lab.name)
    lab.wait_descriptors(1)
    lab.append(5)
    wait_delivered(lab, 5)
    process.send_signal(number)
    assert outcome(process) == ("5 packets, 300 bytes, 0 dropped; interrupted\n", "", 0)
    lab.wait_descriptors(0)


def test_consumer_in_c_prints_why_a_producer_refuses(
    remote: Callable[[], Remote], producer_name: str, consumer: Path, example: Start
) -> None:
    lab = Lab(remote(), producer_name, limits=Limits(descriptors=0))
    _, errors, status = outcome(example(consumer, lab.name))
    assert (errors.startswith("consumer: refused: "), errors.count("\n"), status) == (True, 1, 1)


# ---- consumer.c and producers that are broken, or hostile -----------------------------------------------------------


@pytest.fixture
def fake(producer_name: str, run_dir: Path) -> Iterator[FakeProducer]:
    """A producer that does what a test wants."""
    with contextlib.closing(FakeProducer(producer_name, run_dir)) as producer:
        yield producer


def serve(fake: FakeProducer, raw: bytes | None = None) -> None:
    """Let the one client in, and answer it."""
    fake.listening.settimeout(LIMIT_S)
    fake.serve(raw)


def refused(process: Process) -> str:
    """What it says when it gives up: one line."""
    output, errors, status = outcome(process)
    assert (output, errors.count("\n"), status) == ("", 1, 1), errors
    assert errors.startswith("consumer: ")
    return errors.removeprefix("consumer: ")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the producer hung up"),
        (b"{", "is this a zbuf producer"),
        (b'{"type"', "is this a zbuf producer"),
        (b'{"type":', "is this a zbuf producer"),
        (b'"type":"connected"', "is this a zbuf producer"),
        (b'{"type":"done"}', "is this a zbuf producer"),
        (b'{"type":"connected"}', "is this a zbuf producer"),
        (b'{"type":"connected","sequence":-1}', "is this a zbuf producer"),
        (b'{"type":"connected","filter":"\\"sequence\\":7"}', "is this a zbuf producer"),
        (b'{"filter":"sequence","type":"connected"}', "is this a zbuf producer"),
        (b"\xff\xfe\0\0", "is this a zbuf producer"),
        (b"[" * 60_000, "is this a zbuf producer"),
        (b'{"type":"connected","sequence":0,"filter":"' + b"x" * 70_000 + b'"}', "too long"),
        (b'{"type":"refusal","reason":"not \\"you\\"\x1b[2J"}', 'refused: not \\"you\\"\n'),
        (b'{"reason" : "not you", "type" : "refusal"}', "refused: not you\n"),
        (b'{"type":"refusal","reason":"' + b"x" * 60_000, "refused: xxx"),
        (b'{"type":"refusal","reason":"x\\', "refused: x"),
        (b'{"type":"refusal","reason":"', "refused: \n"),
        (b'{"type":"refusal","reason":', "refused: \n"),
        (b'{"type":"refusal"}', "refused: \n"),
    ],
    ids=range(20),
)
def test_consumer_in_c_refuses_an_answer_that_is_none(
    fake: FakeProducer, sanitized: Path, example: Start, raw: bytes, message: str
) -> None:
    process = example(sanitized, fake.answer["producer"])
    serve(fake, raw)
    assert message in refused(process)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_consumer_in_c_refuses_an_answer_with_too_few_descriptors(
    fake: FakeProducer, sanitized: Path, example: Start, keep: int
) -> None:
    process = example(sanitized, fake.answer["producer"])
    with contextlib.ExitStack() as unsent:
        for fd in fake.fds[keep:]:
            if fd not in (fake.ack_fd, fake.bell):
                unsent.callback(os.close, fd)
        fake.fds = fake.fds[:keep]
        serve(fake)
    assert f"with {keep} file descriptors" in refused(process)


def test_consumer_in_c_refuses_an_answer_with_too_many_descriptors(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    fake.fds += [os.dup(fake.ack_fd) for _ in range(50)]
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert "too many file descriptors" in refused(process)


@pytest.mark.parametrize(
    ("which", "message"),
    [(0, "shared memory is too short"), (1, "shared memory is too short"), (2, "the doorbell is not a socket")],
)
@pytest.mark.parametrize("kind", ["short file", "directory", "pipe"])
def test_consumer_in_c_refuses_a_descriptor_of_the_wrong_kind(
    fake: FakeProducer, sanitized: Path, example: Start, tmp_path: Path, which: int, message: str, kind: str
) -> None:
    (tmp_path / "short").write_bytes(b"short")
    reading, writing = os.pipe()
    os.write(writing, b"ring")
    wrong = {"short file": os.open(tmp_path / "short", os.O_RDONLY), "directory": os.open(tmp_path, os.O_RDONLY)}
    wrong["pipe"] = reading
    kept, fake.fds[which] = fake.fds[which], wrong[kind]
    with contextlib.ExitStack() as opened:
        for fd in (*wrong.values(), writing, kept):
            if fd not in (wrong[kind], fake.ack_fd, fake.bell):
                opened.callback(os.close, fd)
        process = example(sanitized, fake.answer["producer"])
        serve(fake)
        assert message in refused(process)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"ELEPHANT", "foreign segment"),
        (8, struct.pack("<I", 99), "segment of ABI 99, this is ABI 1"),
        (12, struct.pack("<I", 0), "segment in state 0"),
        (12, struct.pack("<I", 3), "segment in state 3"),
        (24, struct.pack("<Q", 1 << 40), "corrupt segment"),
        (48, struct.pack("<Q", 1 << 63), "corrupt segment: a buffer at 9223372036854775808"),
        (48, struct.pack("<Q", 4097), "corrupt segment: a buffer at 4097"),
        (56, struct.pack("<Q", (1 << 64) - PAGE), "corrupt segment: a buffer at 18446744073709547520"),
        (56, struct.pack("<Q", 4 * PAGE), "corrupt segment: a buffer at 16384"),
        (64, struct.pack("<Q", 0), "with buffers of 0"),
        (64, struct.pack("<Q", 100), "with buffers of 100"),
        (64, struct.pack("<Q", 3 * PAGE), "corrupt segment: a buffer at 8192"),
        (64, struct.pack("<Q", (1 << 64) - PAGE), "with buffers of 18446744073709547520"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else None,
)
def test_consumer_in_c_refuses_a_segment_whose_first_page_can_not_be(
    fake: FakeProducer, sanitized: Path, example: Start, at: int, value: bytes, message: str
) -> None:
    fake.segment.map[at : at + len(value)] = value
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert message in refused(process)


def block(caplen: int = 60, total: int = 92, kind: int = 6, tail: int = 92) -> bytes:
    """An Enhanced Packet Block, or what is none."""
    return struct.pack("<7I", kind, total, 0, 0, 0, caplen, caplen) + bytes(60) + struct.pack("<I", tail)


def assign(fake: FakeProducer, blocks: bytes, length: int | None = None, sequence: int = 0) -> None:
    """Assign buffer A, before anybody is there to be woken."""
    at = 2 * PAGE
    assert struct.unpack_from("<2Q", fake.segment.map, 48) == (at, at + PAGE)
    fake.segment.map[at + HEADER_BYTES : at + HEADER_BYTES + len(blocks)] = blocks
    struct.pack_into("<4I16xQ", fake.segment.map, at, 1, len(blocks) if length is None else length, 0, 1, sequence)


@pytest.mark.parametrize(
    ("blocks", "length", "message"),
    [
        (b"", PAGE - HEADER_BYTES + 4, "corrupt buffer 0: 3972 bytes"),
        (b"", 0xFFFFFFFC, "corrupt buffer 0: 4294967292 bytes"),
        (b"", 0xFFFFFFFF, "corrupt buffer 0: 4294967295 bytes"),
        (block(), 91, "corrupt buffer 0: 91 bytes"),
        (block(), 88, "corrupt buffer 0: no packet at byte 0"),
        (block() + bytes(92), None, "corrupt buffer 0: no packet at byte 92"),
        (block(kind=5), None, "no packet at byte 0"),
        (block(total=0), None, "no packet at byte 0"),
        (block(total=0xFFFFFFFC), None, "no packet at byte 0"),
        (block(caplen=0xFFFFFFFF), None, "no packet at byte 0"),
        (block(tail=96), None, "no packet at byte 0"),
        (b"\xff" * (PAGE - HEADER_BYTES), None, "no packet at byte 0"),
    ],
    ids=range(12),
)
def test_consumer_in_c_refuses_a_buffer_that_is_no_whole_packets(
    fake: FakeProducer, sanitized: Path, example: Start, blocks: bytes, length: int | None, message: str
) -> None:
    assign(fake, blocks, length)
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert message in refused(process)


@pytest.mark.slow
def test_consumer_in_c_is_evicted_when_the_producer_hangs_up_and_lives(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    assign(fake, block())
    at = 3 * PAGE  # the store, which it must not touch
    struct.pack_into("<2I", fake.segment.map, at + 64, 92, 1)
    fake.segment.map[at + HEADER_BYTES : at + HEADER_BYTES + 92] = block()
    process = example(sanitized, fake.answer["producer"])
    os.close(fake.doorbell)
    fake.doorbell = -1
    serve(fake)
    assert outcome(process) == ("1 packets, 60 bytes, 0 dropped; evicted\n", "", 0)


def test_consumer_in_c_is_evicted_when_a_buffer_comes_whose_turn_it_is_not(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    assign(fake, block(), sequence=2)
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert outcome(process) == ("0 packets, 0 bytes, 0 dropped; evicted\n", "", 0)


def test_consumer_in_c_says_what_it_can_not_connect_to(run_dir: Path, consumer: Path, example: Start) -> None:
    assert refused(example(consumer, "none")) == f"{run_dir}/none.sock: No such file or directory\n"
    assert "too long for the path of a socket" in refused(example(consumer, "none", "/x" * 60))
    assert refused(example(consumer)) == "usage: consumer NAME [RUN_DIR]\n"


# ---- fan_out.py -----------------------------------------------------------------------------------------------------


def share(data: bytes, workers: int) -> int:
    """The worker of a packet, by the bytes where IPv4 has its addresses."""
    return (zlib.crc32(data[26:30]) ^ zlib.crc32(data[30:34])) % workers


def test_workers_share_one_descriptor_and_each_packet_is_one_worker_s(
    producer: Producer, capture: list[Record], example: Start
) -> None:
    process = example("fan_out.py", producer.name)
    assert producer.wait_readers(4, LIMIT_S)
    assert [len(one.readers) for one in producer.stats().descriptors] == [4]
    publish(producer, capture)
    shares = Counter(share(packet.data, 4) for packet in capture)
    lines = [f"worker {number}: {shares[number]} packets\n" for number in range(4)]
    assert outcome(process) == ("".join(lines) + f"together: {len(capture)} packets\n", "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_tell_what_they_counted_when_they_are_interrupted(lab: Lab, example: Start, number: int) -> None:
    process = example("fan_out.py", lab.name, 2)
    wait_until(lambda: sum(len(one.readers) for one in lab.descriptors()) == 2)
    appended = lab.append(9)
    wait_delivered(lab, 9)
    process.send_signal(number)
    shares = Counter(share(numbered(one), 2) for one in appended)
    lines = [f"worker {one}: {shares[one]} packets\n" for one in range(2)]
    assert outcome(process) == ("".join(lines) + "together: 9 packets\n", "", 0)
    lab.wait_descriptors(0)


# ---- flows.py -------------------------------------------------------------------------------------------------------


def flow_of(data: bytes) -> str | None:
    """The flow of a frame, parsed here once more; None where it tells no ports."""
    if len(data) < 34 or data[12:14] != b"\x08\x00" or data[23] not in (6, 17):
        return None
    if struct.unpack_from(">H", data, 20)[0] & 0x1FFF:
        return None
    ports = 14 + (data[14] & 15) * 4
    if len(data) < ports + 4:
        return None
    source, target = struct.unpack_from(">HH", data, ports)
    ends = (".".join(map(str, data[26:30])), source, ".".join(map(str, data[30:34])), target)
    return "{} {}:{} > {}:{}".format("TCP" if data[23] == 6 else "UDP", *ends)


def with_options(data: bytes) -> bytes:
    """An IPv4 frame with eight bytes of options in its IPv4 header, which moves its ports."""
    return data[:14] + b"\x47" + data[15:34] + b"\x01" * 8 + data[34:]


@pytest.fixture
def conversations(capture: list[Record]) -> list[Record]:
    """The capture, some packets with IPv4 options, fragments, and ones cut short in all the places where it matters."""
    http = next(one for one in capture if flow_of(one.data) and one.data[23] == 6)
    cut = [Record(http.data[:length], http.time_ns, length) for length in range(1, 42)]
    moved = with_options(http.data)
    cut += [Record(moved[:length], http.time_ns, length) for length in range(38, 50)]
    for fragment in (0x4000, 0x2000, 0x0100, 0x1000, 0x0001):  # not to be fragmented, the first of some, later ones
        data = http.data[:20] + struct.pack(">H", fragment) + http.data[22:]
        cut.append(Record(data, http.time_ns, len(data)))
    return [*capture, *cut, *[Record(moved, http.time_ns, len(moved))] * 3]


def test_flows_are_those_that_another_parser_finds(
    producer_name: str, run_dir: Path, conversations: list[Record], example: Start
) -> None:
    del run_dir
    with Producer(producer_name, lossless=True, buffer_size=4 * PAGE) as producer:  # small ones, so that there are many
        process = example("flows.py", producer.name)
        publish(producer, conversations)
    packets: Counter[str] = Counter()
    octets: Counter[str] = Counter()
    for one in conversations:
        if flow := flow_of(one.data):
            packets[flow] += 1
            octets[flow] += len(one.data)
    output, errors, status = outcome(process)
    *lines, last = output.splitlines()
    assert (errors, status) == ("", 0)
    assert last == f"{len(packets)} flows: {packets.total()} packets, {octets.total()} bytes"
    shown = [tuple(line.rsplit(": ", 1)) for line in lines]
    assert [count for _, count in shown] == sorted_counts(packets, octets)[:10]
    assert all(count == f"{packets[flow]} packets, {octets[flow]} bytes" for flow, count in shown)
    assert len({flow for flow, _ in shown}) == 10


def sorted_counts(packets: Counter[str], octets: Counter[str]) -> list[str]:
    """What the lines of the busiest flows count; flows of the same bytes can come in either order."""
    return [f"{packets[flow]} packets, {total} bytes" for flow, total in octets.most_common()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_flows_are_printed_when_it_is_interrupted(
    lab: Lab, conversations: list[Record], example: Start, number: int
) -> None:
    process = example("flows.py", lab.name)
    lab.wait_descriptors(1)
    lab.process.do("for data in packets: producer.append(data)", packets=[one.data for one in conversations])
    lab.process.do("for _ in range(3): producer.append(numbered(0))")  # no flow
    wait_delivered(lab, len(conversations) + 3)
    process.send_signal(number)
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    found = sum(flow_of(one.data) is not None for one in conversations)
    assert f" flows: {found} packets, " in output.splitlines()[-1]


def test_flows_of_what_is_no_ethernet_are_refused(producer_name: str, run_dir: Path, example: Start) -> None:
    del run_dir
    with Producer(producer_name, linktype=101) as producer:
        message = f"flows: {producer.name} has link type 101: this takes 1, Ethernet\n"
        assert outcome(example("flows.py", producer.name)) == ("", message, 1)


# ---- alert.py -------------------------------------------------------------------------------------------------------

SYN, SYN_ACK = 2, 18
SECOND_NS = 1_000_000_000


def tcp(source: int, flags: int, time_ns: int) -> Record:
    """A TCP segment from 192.0.2.SOURCE."""
    ip = struct.pack(">BBHHHBBH8B", 0x45, 0, 40, 0, 0, 64, 6, 0, 192, 0, 2, source, 198, 51, 100, 1)
    segment = struct.pack(">HHIIBBHHH", 1024, 80, 0, 0, 0x50, flags, 0, 0, 0)
    return Record(bytes(12) + b"\x08\x00" + ip + segment, time_ns, 54)


def flood() -> list[Record]:
    """SYNs of two hosts, a second a line, and segments that are none; more than three in a second are too many."""
    found = [tcp(1, SYN, SECOND_NS + n) for n in range(4)] + [tcp(2, SYN, SECOND_NS + 10 + n) for n in range(3)]
    found += [tcp(2, flags, SECOND_NS + 20) for flags in (SYN_ACK, 16, 17, 24) for _ in range(5)]
    found += [tcp(host, SYN, 2 * SECOND_NS + n) for n in range(3) for host in (1, 2)]
    return found + [tcp(2, SYN, 3 * SECOND_NS + n) for n in range(9)]


def test_alert_tells_who_sends_too_many_syns_on_each_of_several_captures(
    producer_name: str, run_dir: Path, example: Start
) -> None:
    del run_dir
    with (
        Producer(f"{producer_name}.1", lossless=True) as one,
        Producer(f"{producer_name}.2", lossless=True) as two,
    ):
        process = example("alert.py", 3, one.name, two.name)
        assert two.wait_readers(1, LIMIT_S)
        publish(one, flood())
        publish(two, [tcp(7, SYN, 5 * SECOND_NS + n) for n in range(5)])
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    says = "sends more than 3 SYNs in second"
    assert sorted(output.splitlines()) == [
        f"{one.name}: 192.0.2.1 {says} 1",
        f"{one.name}: 192.0.2.2 {says} 3",
        f"{two.name}: 192.0.2.7 {says} 5",
    ]


@pytest.mark.slow
def test_alert_comes_while_the_capture_runs_and_signals_end_the_watch(lab: Lab, example: Start) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = example("alert.py", 1, lab.name)
        lab.wait_descriptors(1)
        for packet in (tcp(9, SYN, SECOND_NS), tcp(9, SYN, SECOND_NS + 1)):
            lab.process.do("producer.append(data, time_ns=when)", data=packet.data, when=packet.time_ns)
        wait_line(process.stdout, "192.0.2.9 sends more than 1 SYNs in second 1")
        process.send_signal(number)
        assert outcome(process) == ("", "", 0)
        lab.wait_descriptors(0)


def test_alert_ends_where_one_of_its_captures_is_missing(lab: Lab, run_dir: Path, example: Start) -> None:
    message = f"alert: no producer 'none' runs in {run_dir} (there is: {lab.name})\n"
    assert outcome(example("alert.py", 3, lab.name, "none")) == ("", message, 1)


# ---- dns.py ---------------------------------------------------------------------------------------------------------


def clock(time_ns: int) -> str:
    """A time of the day, to the nanosecond."""
    seconds, nanoseconds = divmod(time_ns, SECOND_NS)
    return f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{nanoseconds:09}"


@pytest.mark.slow
def test_dns_prints_every_question_and_answer_with_its_time(
    producer: Producer, capture: list[Record], example: Start
) -> None:
    process = example("dns.py", producer.name)
    publish(producer, capture)
    messages = [one for one in capture if (flow_of(one.data) or "").startswith("UDP") and 53 in ports(one.data)]
    assert len(messages) == 120
    expected = []
    for number, (query, reply) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
        expected.append(f"{clock(query.time_ns)} {number} host{number}.example.org. A?")
        expected.append(f"{clock(reply.time_ns)} {number} host{number}.example.org. A 198.51.100.20")
    output, errors, status = outcome(process)
    assert (output.splitlines(), errors, status) == (expected, "", 0)


def ports(data: bytes) -> tuple[int, ...]:
    """Those of a UDP datagram over IPv4 without options."""
    return struct.unpack_from(">HH", data, 34)


@pytest.mark.slow
def test_dns_prints_nothing_that_a_terminal_would_obey(lab: Lab, example: Start) -> None:
    process = example("dns.py", lab.name)
    lab.wait_descriptors(1)
    name = b"\x05a\x1b[2J\x00"
    question = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1)
    udp = struct.pack(">4H", 1024, 53, 8 + len(question), 0) + question
    ip = struct.pack(">BBHHHBBH8B", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, 192, 0, 2, 1, 192, 0, 2, 53)
    packets = [bytes(12) + b"\x08\x00" + ip + udp, bytes(12) + b"\x08\x00" + ip + udp[:21]]  # and one that is cut
    lab.process.do("for data in packets: producer.append(data, time_ns=0)", packets=packets)
    assert wait_line(process.stdout, " 7 ") == "00:00:00.000000000 7 a\\x1b[2J. A?\n"
    wait_delivered(lab, 2)
    process.terminate()
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    assert "\x1b" not in output


@pytest.mark.slow
def test_dns_ends_quietly_when_it_is_interrupted(lab: Lab, example: Start) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = example("dns.py", lab.name)
        lab.wait_descriptors(1)
        lab.process.do("producer.append(data)", data=b"")
        wait_until(lambda: lab.descriptors()[0].received == 1)
        process.send_signal(number)
        assert outcome(process) == ("", "", 0)
        lab.wait_descriptors(0)


# ---- ring.sh --------------------------------------------------------------------------------------------------------


def test_ring_keeps_the_last_packets_in_five_whole_files(
    producer_name: str, run_dir: Path, tmp_path: Path, example: Start
) -> None:
    del run_dir
    total = 8000
    with Producer(producer_name, lossless=True, buffer_size=4 * PAGE) as producer:
        process = example("ring.sh", producer.name, tmp_path / "ring.pcapng")
        publish(producer, [Record(numbered(number, 1000), number, 1000) for number in range(total)])
    _, errors, status = outcome(process)
    assert status == 0, errors
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    names = [re.fullmatch(r"ring_([0-9]{5})_[0-9]{14}\.pcapng", file.name) for file in files]
    places = [int(name[1]) for name in names if name]
    assert places == list(range(places[0], places[0] + 5))
    assert places[0] > 1, "the first file was to go"
    assert all(file.stat().st_size < 1_200_000 for file in files)
    found = [number_of(one.data) for file in files for one in read_capture(file.read_bytes()).records]
    assert found == list(range(total - len(found), total))
    assert len(found) * 1000 > 4_000_000 * 0.9


# ---- what all of them have in common --------------------------------------------------------------------------------

IN_PYTHON = [("alert.py", "3"), ("dns.py",), ("fan_out.py",), ("flows.py",)]


@pytest.mark.parametrize("command", IN_PYTHON, ids=lambda command: command[0])
def test_example_without_its_producer_says_so_in_one_line(
    run_dir: Path, example: Start, command: tuple[str, ...]
) -> None:
    message = f"{Path(command[0]).stem}: no producer 'none' runs in {run_dir}: start it with zbufd\n"
    assert outcome(example(*command, "none")) == ("", message, 1)
