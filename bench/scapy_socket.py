"""Packets in scapy, by sniff() and one by one.

Timed: ``sniff(opened_socket=ScapySocket(reader), prn=..., store=False)``, and the socket's recv() alone, from the first
packet that the producer offers to the last one that the caller has. Each is dissected by its link type, and has its
time. There are two processes.

Against: scapy itself over the same file: ``sniff(offline=...)`` with the same callback; and PcapReader, which is its
RawPcapReader with each packet dissected by the same layer and given its time.

Of the made capture's packets scapy knows the Ethernet header only. So dissecting takes as little time as it can, and
the socket's own time counts most.
"""

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

from bench import pipeline, python_readers
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.scapy import ScapySocket

_PACKETS = 80_000
_TARGET = 1.0


def measure(session: Session) -> list[Row]:
    """A row for sniff(), and one for packets one by one."""
    return [
        *_compare(session, "sniff(ScapySocket)", sniff_socket, "scapy sniff(offline=)", sniff_file),
        *_compare(session, "ScapySocket.recv()", receive, "scapy PcapReader", read_file),
    ]


def _compare(
    session: Session,
    name: str,
    reader: Callable[[str, str], Times],
    peer_name: str,
    peer: Callable[[str, int], Times],
) -> list[Row]:
    capture = session.capture
    loops = capture.loops(session.scaled(_PACKETS))
    return session.compete(
        name,
        lambda: packets_per_second(*pipeline.run(capture, loops, reader)),
        [Peer(peer_name, lambda: python_readers.rate(peer, capture, loops), _TARGET)],
    )


class _Count:
    """A callback for sniff(), which would print what it returns."""

    packets = 0

    def __call__(self, _packet: object) -> None:
        self.packets += 1


def _scapy() -> Any:
    """With all of its layers, before the time begins."""
    return importlib.import_module("scapy.all")


# ---- zbuf -----------------------------------------------------------------------------------------------------------


def sniff_socket(name: str, run_dir: str) -> Times:
    """A reader."""
    scapy = _scapy()

    def sniff_all(reader: Reader) -> int:
        count = _Count()
        scapy.sniff(opened_socket=ScapySocket(reader), prn=count, store=False)
        return count.packets

    return pipeline.read(name, run_dir, sniff_all)


def receive(name: str, run_dir: str) -> Times:
    """The other reader."""
    _scapy()
    return pipeline.read(name, run_dir, _receive_all)


def _receive_all(reader: Reader) -> int:
    packets = 0
    socket = ScapySocket(reader)
    with contextlib.suppress(EOFError):
        while True:
            socket.recv()
            packets += 1
    return packets


# ---- peers ----------------------------------------------------------------------------------------------------------


def sniff_file(file: str, loops: int) -> Times:
    """The peer of the first."""
    scapy = _scapy()

    def one_pass() -> Times:
        count = _Count()
        scapy.sniff(offline=file, prn=count, store=False)
        return {"packets": count.packets}

    return python_readers.timed(one_pass, loops)


def read_file(file: str, loops: int) -> Times:
    """The peer of the second."""
    scapy = _scapy()

    def one_pass() -> Times:
        packets = 0
        with scapy.PcapReader(file) as pcap:
            for _packet in pcap:
                packets += 1
        return {"packets": packets}

    return python_readers.timed(one_pass, loops)
