"""Tests of a program that reads captures, with zbuf's fixtures: pytest examples/test_packets.py"""

from collections.abc import Callable
from pathlib import Path

from scapy.layers.l2 import ARP, Ether
from scapy.utils import wrpcap

from zbuf import Producer, connect


def broadcasts(name: str) -> int:
    """The program under test: how many packets went to everybody."""
    with connect(name) as reader:
        return sum(packet[:6] == b"\xff" * 6 for packet in reader)


def test_it_counts_broadcasts_of_a_file(zbuf_replay: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "arp.pcap"
    wrpcap(str(file), [Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(), Ether(dst="02:00:00:00:00:01") / ARP()])
    assert broadcasts(zbuf_replay(file)) == 1


def test_it_reads_what_a_producer_appends(zbuf_producer: Callable[..., Producer]) -> None:
    producer = zbuf_producer("lab")
    with connect("lab", timeout_ms=0.5) as reader:
        producer.append(b"\xff" * 60)
        buffer = reader.next_buffer(timeout=10)
        assert buffer is not None
        assert [packet[:2] for packet in buffer] == [b"\xff\xff"]
