"""Packets in scapy.

Timed: ``sniff(opened_socket=ScapySocket(reader), prn=..., store=False)``, from the first packet that the producer offers
to the last one that the callback was given, each dissected by its link type: end to end, two processes.

Against: scapy itself over the same file, ``sniff(offline=...)`` with the same callback; and its RawPcapReader, which is
the least that it can do, with each packet dissected by the same layer, but given no time.

Packets of the made capture have an Ethernet header only that scapy knows, so that dissecting takes as little as it can,
and what the socket takes counts most.
"""

import importlib
from typing import Any

from bench import pipeline, python_readers
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from zbuf.consumer.client import Reader
from zbuf.consumer.scapy import ScapySocket

_PACKETS = 80_000
_TARGET = 1.0


def measure(session: Session) -> list[Row]:
    """A row for each of scapy's own ways."""
    capture = session.capture
    loops = capture.loops(session.scaled(_PACKETS))
    ways = {"sniff(offline=)": sniff_file, "RawPcapReader, dissected": dissect_file}
    peers = [
        Peer(f"scapy {name}", lambda one=one: python_readers.rate(one, capture, loops), _TARGET)
        for name, one in ways.items()
    ]
    return session.compete("sniff(ScapySocket)", lambda: _zbuf(capture, loops), peers)


def _zbuf(capture: Capture, loops: int) -> float:
    return packets_per_second(*pipeline.run(capture, loops, sniff_socket))


class _Count:
    """A callback for sniff(), which would print what it returns."""

    packets = 0

    def __call__(self, _packet: object) -> None:
        self.packets += 1


def _scapy() -> Any:
    """With all of its layers, before the time begins."""
    return importlib.import_module("scapy.all")


def sniff_socket(name: str, run_dir: str) -> Times:
    """The reader."""
    scapy = _scapy()

    def sniff_all(reader: Reader) -> int:
        count = _Count()
        scapy.sniff(opened_socket=ScapySocket(reader), prn=count, store=False)
        return count.packets

    return pipeline.read(name, run_dir, sniff_all)


def sniff_file(file: str, loops: int) -> Times:
    """The peer."""
    scapy = _scapy()

    def one_pass() -> Times:
        count = _Count()
        scapy.sniff(offline=file, prn=count, store=False)
        return {"packets": count.packets}

    return python_readers.timed(one_pass, loops)


def dissect_file(file: str, loops: int) -> Times:
    """The other peer: it leaves out all that sniff() does."""
    scapy = _scapy()

    def one_pass() -> Times:
        packets = 0
        with scapy.RawPcapReader(file) as pcap:
            layer = scapy.conf.l2types.num2layer[pcap.linktype]
            for data, _metadata in pcap:
                layer(data)
                packets += 1
        return {"packets": packets}

    return python_readers.timed(one_pass, loops)
