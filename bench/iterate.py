"""Python, packet by packet.

Timed: ``for packet in reader``, which reads time_ns and caplen of each packet, from the first packet that the producer
offers to the last one read. There are two processes, and the file is in the producer's memory.

Against: cypcap, a Cython binding of libpcap, iterating over the same file as its documentation shows (``for header,
data in pcap``). It reads the header's ts and caplen, from opening the file to its end, again and again. The file is in
the page cache. All loops are in a function, since Python is fastest there.

The others are there for information: pcapy-ng's next(), next_batch() and loop_to_buffer(), dpkt, and scapy's
RawPcapReader. See bench.python_readers.
"""

from bench import pipeline, python_readers
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from zbuf.consumer.reading.reader import Reader

_PACKETS = 8_000_000
_PEER_PACKETS = 2_000_000
_SLOW_PEER_PACKETS = 400_000

_CYPCAP_TARGET = 4.0

_PEERS = {
    "cypcap": ("cypcap", python_readers.with_cypcap, _PEER_PACKETS),
    "pcapy-ng next": ("pcapy", python_readers.with_pcapy, _PEER_PACKETS),
    "pcapy-ng next_batch": ("pcapy", python_readers.with_pcapy_batches, _PEER_PACKETS),
    "pcapy-ng loop_to_buffer": ("pcapy", python_readers.with_pcapy_buffer, _PEER_PACKETS),
    "dpkt": ("dpkt", python_readers.with_dpkt, _SLOW_PEER_PACKETS),
    "scapy RawPcapReader": ("scapy", python_readers.with_scapy, _SLOW_PEER_PACKETS),
}


def measure(session: Session) -> list[Row]:
    """A row for each peer."""
    loops = session.capture.loops(session.scaled(_PACKETS))
    peers = [_peer(session, name) for name in _PEERS]
    return session.compete("for packet in reader", lambda: _zbuf(session.capture, loops), peers)


def _peer(session: Session, name: str) -> Peer:
    module, function, packets = _PEERS[name]
    loops = session.capture.loops(session.scaled(packets))
    target = _CYPCAP_TARGET if name == "cypcap" else None
    return Peer(
        name, lambda: python_readers.rate(function, session.capture, loops), target, python_readers.missing(module)
    )


def _zbuf(capture: Capture, loops: int) -> float:
    return packets_per_second(*pipeline.run(capture, loops, iterate))


def iterate(name: str, run_dir: str) -> Times:
    """Be the reader."""
    return pipeline.read(name, run_dir, _iterate_all)


def _iterate_all(reader: Reader) -> int:
    packets = 0
    for packet in reader:
        packet.time_ns  # noqa: B018  (reading is what is timed)
        packet.caplen  # noqa: B018
        packets += 1
    return packets
