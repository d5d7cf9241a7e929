"""examples/flows.py: its flows are those that a second parser finds."""

import signal
import struct
from collections import Counter
from pathlib import Path

import pytest
from support.captures import Record
from support.examples import PAGE, Start, flow_of, outcome, publish, wait_delivered
from support.processes import Lab

from zbuf.producer import Producer


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


def test_flows_are_the_ones_that_another_parser_finds(
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
    lab.process.do("for _ in range(3): producer.append(numbered(0))")  # not a flow
    wait_delivered(lab, len(conversations) + 3)
    process.send_signal(number)
    output, errors, status = outcome(process)
    assert (errors, status) == ("", 0)
    found = sum(flow_of(one.data) is not None for one in conversations)
    assert f" flows: {found} packets, " in output.splitlines()[-1]


def test_flows_refuse_a_capture_that_is_not_ethernet(producer_name: str, run_dir: Path, example: Start) -> None:
    del run_dir
    with Producer(producer_name, linktype=101) as producer:
        message = f"flows: {producer.name} has link type 101: this takes 1, Ethernet\n"
        assert outcome(example("flows.py", producer.name)) == ("", message, 1)
