"""examples/fan_out.py: several processes share one descriptor, and the work."""

import signal
import zlib
from collections import Counter

import pytest
from support.captures import Record
from support.examples import Start, outcome, publish, wait_delivered
from support.processes import LIMIT_S, Lab, numbered
from support.rig import wait_until

from zbuf.producer import Producer


def share(data: bytes, workers: int) -> int:
    """The worker of a packet, by the bytes where IPv4 has its addresses."""
    return (zlib.crc32(data[26:30]) ^ zlib.crc32(data[30:34])) % workers


def test_workers_share_one_descriptor_and_each_packet_goes_to_one_of_them(
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
