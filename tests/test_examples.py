"""The examples, each with a producer whose packets are known: what they print is compared with a count of our own.

consumer.c is built as its first lines say, and once more with the sanitizers, for producers that are hostile.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from captures import Record, read_capture
from processes import LIMIT_S, Commands, Lab, Remote, numbered
from rig import wait_until
from test_connect import FakeProducer

from zbuf.producer import Producer
from zbuf.producer.capture import Limits

EXAMPLES = Path(__file__).parent.parent / "examples"
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
    assert producer.wait_readers(readers, LIMIT_S), "no reader came"
    for packet in packets:
        producer.append(packet.data, time_ns=packet.time_ns)
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
    command = ["cc", *STRICT, *flags, "-o", folder / "consumer", EXAMPLES / "consumer.c"]
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
    appended = 0
    while lab.descriptors()[0].bells < 3:  # rung where it sleeps, and there alone
        appended += len(lab.append(2, size=100))
        wait_delivered(lab, appended)
    lab.close()
    expected = f"{appended} packets, {appended * 100} bytes, 0 dropped; the producer closed\n"
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
