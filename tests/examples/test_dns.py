"""examples/dns.py: a line for each DNS message."""

import signal
import struct

import pytest
from support.captures import Record
from support.commands import wait_line
from support.examples import SECOND_NS, Start, flow_of, outcome, publish, wait_delivered
from support.processes import Lab
from support.rig import wait_until

from zbuf.producer import Producer


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
