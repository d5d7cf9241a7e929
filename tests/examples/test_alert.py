"""examples/alert.py: SYN floods on several captures at once."""

import signal
import struct
from pathlib import Path

import pytest
from support.captures import Record
from support.commands import wait_line
from support.examples import SECOND_NS, Start, outcome, publish
from support.processes import LIMIT_S, Lab

from zbuf.producer import Producer

SYN, SYN_ACK = 2, 18


def tcp(source: int, flags: int, time_ns: int) -> Record:
    """A TCP segment from 192.0.2.SOURCE."""
    ip = struct.pack(">BBHHHBBH8B", 0x45, 0, 40, 0, 0, 64, 6, 0, 192, 0, 2, source, 198, 51, 100, 1)
    segment = struct.pack(">HHIIBBHHH", 1024, 80, 0, 0, 0x50, flags, 0, 0, 0)
    return Record(bytes(12) + b"\x08\x00" + ip + segment, time_ns, 54)


def flood() -> list[Record]:
    """SYNs of two hosts, one second a line, and other segments; more than three SYNs in a second are too many."""
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


def test_alert_ends_when_one_of_its_captures_is_missing(lab: Lab, run_dir: Path, example: Start) -> None:
    message = f"alert: no producer 'none' runs in {run_dir} (there is: {lab.name})\n"
    assert outcome(example("alert.py", 3, lab.name, "none")) == ("", message, 1)
