"""examples/consumer.c: what it counts, and how it ends."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.captures import Record
from support.examples import HEADER_BYTES, PAGE, Start, outcome, publish, wait_delivered
from support.processes import Lab, Remote
from support.rig import wait_until

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.producer.serving.limits import Limits

PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""


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
    connect(lab.name).close()  # the producer has sent the consumer's answer before it answers this
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
