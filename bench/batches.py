"""Sums and a filter over all packets, for programs that use NumPy.

Timed: three numbers of all packets. These are how many there are, the sum of their captured lengths, and how many have
a certain byte (on Ethernet and IPv4 it says TCP). zbuf's reader takes index_batches(), and a few array expressions for
each buffer. The time is from the first packet that the producer offers to the last one summed up, with two processes.

Against: other ways to read packets in Python, over the same file, from the page cache, again and again. cypcap and dpkt
give packets one by one; the sums are made as they come, since collecting lengths for an array only takes longer.
pcapy-ng's next_batch() gives 1024 packets at a time, for the same array expressions and with no loop in Python. All
contestants must come to the same numbers.
"""

import importlib

import numpy

from bench import pipeline, python_readers
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from bench.stage import BenchError
from zbuf.consumer.reading.reader import Reader

_PACKETS = 48_000_000
_PEER_PACKETS = 2_000_000
_BATCHES_PEER_PACKETS = 8_000_000
_SLOW_PEER_PACKETS = 400_000
_TARGET = 10.0

_PLACE, _WANTED = 23, 6  # the protocol of an IPv4 packet on Ethernet, and TCP
_NUMBERS = ("packets", "octets", "matches")
_RECORD = numpy.dtype([("seconds", "=u4"), ("microseconds", "=u4"), ("offset", "=u4"), ("caplen", "=u4")])


def measure(session: Session) -> list[Row]:
    """A row for each peer."""
    agreed: dict[str, float] = {}
    loops = session.capture.loops(session.scaled(_PACKETS))
    peers = [_peer(session, name, agreed) for name in _PEERS]
    return session.compete("index_batches()", lambda: _zbuf(session, loops, agreed), peers)


def _peer(session: Session, name: str, agreed: dict[str, float]) -> Peer:
    module, function, packets = _PEERS[name]
    loops = session.capture.loops(session.scaled(packets))

    def run() -> float:
        times = python_readers.run(function, session.capture, loops)
        _agree(name, times, loops, agreed)
        return packets_per_second(times)

    return Peer(name, run, _TARGET, python_readers.missing(module))


def _zbuf(session: Session, loops: int, agreed: dict[str, float]) -> float:
    produced, taken = pipeline.run(session.capture, loops, sum_up)
    _agree("zbuf", taken, loops, agreed)
    return packets_per_second(produced, taken)


def _agree(who: str, times: Times, loops: int, agreed: dict[str, float]) -> None:
    """Raise BenchError unless the numbers of one pass are those of the contestant that ran first."""
    found = {name: times[name] / loops for name in _NUMBERS}
    agreed.update(agreed or found)
    if found != agreed:
        raise BenchError(f"{who} comes to {found}, and others come to {agreed}")


# ---- zbuf -----------------------------------------------------------------------------------------------------------


def sum_up(name: str, run_dir: str) -> Times:
    """Be the reader."""
    return pipeline.read_counts(name, run_dir, _sum_up_all)


def _sum_up_all(reader: Reader) -> Times:
    packets = octets = matches = 0
    for batch in reader.index_batches():
        caplen = batch.index["caplen"]
        places = batch.index["offset"][caplen > _PLACE] + _PLACE
        packets += len(batch)
        octets += int(caplen.sum())
        matches += int(numpy.count_nonzero(batch.data[places] == _WANTED))
    return {"packets": packets, "octets": octets, "matches": matches}


# ---- peers ----------------------------------------------------------------------------------------------------------


def sum_up_with_cypcap(file: str, loops: int) -> Times:
    """One by one."""
    cypcap = importlib.import_module("cypcap")

    def one_pass() -> Times:
        packets = octets = matches = 0
        with cypcap.open_offline(file) as pcap:
            for _header, data in pcap:
                length = len(data)
                packets += 1
                octets += length
                if length > _PLACE and data[_PLACE] == _WANTED:
                    matches += 1
        return {"packets": packets, "octets": octets, "matches": matches}

    return python_readers.timed(one_pass, loops)


def sum_up_with_dpkt(file: str, loops: int) -> Times:
    """One by one."""
    pcap = importlib.import_module("dpkt.pcap")

    def one_pass() -> Times:
        packets = octets = matches = 0
        with open(file, "rb") as opened:
            for _seconds, data in pcap.UniversalReader(opened):
                length = len(data)
                packets += 1
                octets += length
                if length > _PLACE and data[_PLACE] == _WANTED:
                    matches += 1
        return {"packets": packets, "octets": octets, "matches": matches}

    return python_readers.timed(one_pass, loops)


def sum_up_with_pcapy(file: str, loops: int) -> Times:
    """Batch by batch."""
    pcapy = importlib.import_module("pcapy")

    def one_pass() -> Times:
        packets = octets = matches = 0
        pcap = pcapy.open_offline(file)
        while True:
            data, records = pcap.next_batch(python_readers.BATCH)
            if not records:
                return {"packets": packets, "octets": octets, "matches": matches}
            index = numpy.frombuffer(records, _RECORD)
            caplen = index["caplen"]
            places = index["offset"][caplen > _PLACE] + _PLACE
            packets += len(index)
            octets += int(caplen.sum())
            matches += int(numpy.count_nonzero(numpy.frombuffer(data, numpy.uint8)[places] == _WANTED))

    return python_readers.timed(one_pass, loops)


_PEERS = {
    "cypcap": ("cypcap", sum_up_with_cypcap, _PEER_PACKETS),
    "dpkt": ("dpkt", sum_up_with_dpkt, _SLOW_PEER_PACKETS),
    "pcapy-ng next_batch, NumPy": ("pcapy", sum_up_with_pcapy, _BATCHES_PEER_PACKETS),
}
