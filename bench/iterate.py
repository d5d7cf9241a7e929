"""Python, packet by packet.

Timed: ``for packet in reader``, reading time_ns and caplen of each, from the first packet that the producer offers to
the last one read: end to end, two processes, the file in the producer's memory.

Against: cypcap, a Cython binding of libpcap, iterating over the same file as its documentation shows (``for header,
data in pcap``), reading the header's ts and caplen, from opening the file to its end, again and again. Its loop() with
a callback is no faster. The file is in the page cache. All loops are in a function, where Python is fastest.

pcapy-ng is there for information: next_batch(), its way of the fewest calls, whose records of time and captured length
are unpacked by struct.iter_unpack(), which is faster than the struct.unpack_from() that its documentation shows.
"""

import importlib.util
import struct
import time
from collections.abc import Callable

from bench import pipeline
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from bench.stage import Stage
from zbuf.consumer.client import Reader

_PACKETS = 8_000_000
_PEER_PACKETS = 2_000_000
_BATCH = 1024


def measure(session: Session) -> list[Row]:
    """A row for each peer."""
    capture = session.capture
    loops, peer_loops = capture.loops(session.scaled(_PACKETS)), capture.loops(session.scaled(_PEER_PACKETS))
    peers = [
        Peer("cypcap", lambda: _peer(read_with_cypcap, capture, peer_loops), 4.0, _missing("cypcap")),
        Peer("pcapy-ng", lambda: _peer(read_with_pcapy, capture, peer_loops), missing=_missing("pcapy")),
    ]
    return session.compete("for packet in reader", lambda: _zbuf(capture, loops), peers)


def _missing(module: str) -> str:
    return "" if importlib.util.find_spec(module) else "is not installed: pip install zbuf[bench]"


def _zbuf(capture: Capture, loops: int) -> float:
    return packets_per_second(*pipeline.run(capture, loops, iterate))


def _peer(function: Callable[[str, int], Times], capture: Capture, loops: int) -> float:
    with Stage() as stage:
        return packets_per_second(stage.call(function, file=capture.path, loops=loops).result())


def iterate(name: str, run_dir: str) -> Times:
    """The reader."""
    return pipeline.read(name, run_dir, _iterate_all)


def _iterate_all(reader: Reader) -> int:
    packets = 0
    for packet in reader:
        packet.time_ns  # noqa: B018  (reading is what is timed)
        packet.caplen  # noqa: B018
        packets += 1
    return packets


def read_with_cypcap(file: str, loops: int) -> Times:
    """The peer."""
    cypcap = importlib.import_module("cypcap")
    packets = 0
    began = time.monotonic()
    for _ in range(loops):
        with cypcap.open_offline(file) as pcap:
            for header, _data in pcap:
                header.ts  # noqa: B018
                header.caplen  # noqa: B018
                packets += 1
    return {"packets": packets, "began": began, "ended": time.monotonic()}


def read_with_pcapy(file: str, loops: int) -> Times:
    """The other peer: what it is asked for, it gives as fields of a record."""
    pcapy = importlib.import_module("pcapy")
    packets = 0
    began = time.monotonic()
    for _ in range(loops):
        pcap = pcapy.open_offline(file)
        while records := pcap.next_batch(_BATCH)[1]:
            for _seconds, _microseconds, _offset, _caplen in struct.iter_unpack("=IIII", records):
                packets += 1
    return {"packets": packets, "began": began, "ended": time.monotonic()}
