"""Libraries that read capture files in Python, packet by packet, each as its documentation shows.

Every function reads a file from its first packet to its last, `loops` times, and takes the time and the captured length
of each packet. The time begins before the file is opened; it does not include importing.
"""

import importlib
import importlib.util
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.captures import Capture
from bench.pipeline import Times, packets_per_second
from bench.stage import BenchError, Stage

BATCH = 1024
"""How many packets to ask pcapy-ng for at a time; with more it is slower."""

_BUFFER_BYTES = 64 << 20  # as in pcapy-ng's documentation
_RECORD = struct.Struct("<IB")


def missing(module: str) -> str:
    """Why it can't be run here, and what to do; empty if it can."""
    return "" if importlib.util.find_spec(module) else "is not installed: pip install zbuf[bench]"


def run(function: Callable[[str, int], Times], capture: Capture, loops: int) -> Times:
    """Call one of these functions in a process of its own.

    Raises:
        BenchError: it did not read every packet.
    """
    with Stage() as stage:
        times = stage.call(function, file=capture.path, loops=loops).result()
    if times["packets"] != capture.packets * loops:
        raise BenchError(f"{function.__name__}: {times['packets']:.0f} packets of {capture.packets * loops}")
    return times


def rate(function: Callable[[str, int], Times], capture: Capture, loops: int) -> float:
    """Call one of these functions in a process of its own; returns packets per second."""
    return packets_per_second(run(function, capture, loops))


def timed(one_pass: Callable[[], Mapping[str, float]], loops: int) -> Times:
    """Call a function that reads the file once, and add up what it counts."""
    total: Times = {}
    began = time.monotonic()
    for _ in range(loops):
        for name, count in one_pass().items():
            total[name] = total.get(name, 0) + count
    return total | {"began": began, "ended": time.monotonic()}


# ---- packet by packet -----------------------------------------------------------------------------------------------


def with_cypcap(file: str, loops: int) -> Times:
    """Read with cypcap; its loop() with a callback is no faster."""
    cypcap = importlib.import_module("cypcap")

    def one_pass() -> Times:
        packets = 0
        with cypcap.open_offline(file) as pcap:
            for header, _data in pcap:
                header.ts  # noqa: B018  (reading is what is timed)
                header.caplen  # noqa: B018
                packets += 1
        return {"packets": packets}

    return timed(one_pass, loops)


def with_pcapy(file: str, loops: int) -> Times:
    """Read with pcapy-ng's next()."""
    pcapy = importlib.import_module("pcapy")

    def one_pass() -> Times:
        packets = 0
        pcap = pcapy.open_offline(file)
        while True:
            header, _data = pcap.next()
            if header is None:
                return {"packets": packets}
            header.getts()
            header.getcaplen()
            packets += 1

    return timed(one_pass, loops)


def with_pcapy_batches(file: str, loops: int) -> Times:
    """Read with pcapy-ng's next_batch(); struct.iter_unpack() is faster than its documentation's unpack_from()."""
    pcapy = importlib.import_module("pcapy")

    def one_pass() -> Times:
        packets = 0
        pcap = pcapy.open_offline(file)
        while records := pcap.next_batch(BATCH)[1]:
            for _seconds, _microseconds, _offset, _caplen in struct.iter_unpack("=IIII", records):
                packets += 1
        return {"packets": packets}

    return timed(one_pass, loops)


def with_pcapy_buffer(file: str, loops: int) -> Times:
    """Read with pcapy-ng's loop_to_buffer(), whose records have a length, and no time."""
    pcapy = importlib.import_module("pcapy")
    buffer = bytearray(_BUFFER_BYTES)

    def one_pass() -> Times:
        packets = 0
        for written in _filled(pcapy.open_offline(file), buffer):
            offset = 0
            for _ in range(written):
                caplen, _class = _RECORD.unpack_from(buffer, offset)
                offset += _RECORD.size + caplen
            packets += written
        return {"packets": packets}

    return timed(one_pass, loops)


def with_pcapy_buffer_counted(file: str, loops: int) -> Times:
    """Read with loop_to_buffer() without a look at the records: only their number comes out."""
    pcapy = importlib.import_module("pcapy")
    buffer = bytearray(_BUFFER_BYTES)
    return timed(lambda: {"packets": sum(_filled(pcapy.open_offline(file), buffer))}, loops)


def _filled(pcap: Any, buffer: bytearray) -> Iterator[int]:
    """Fill the buffer again and again; gives the number of packets in it each time."""
    while written := pcap.loop_to_buffer(BATCH, buffer)[0]:
        yield written


def with_dpkt(file: str, loops: int) -> Times:
    """Read with dpkt, which is all Python; for a pcap file, its UniversalReader is its Reader."""
    pcap = importlib.import_module("dpkt.pcap")

    def one_pass() -> Times:
        packets = 0
        with open(file, "rb") as opened:
            for _seconds, data in pcap.UniversalReader(opened):
                len(data)
                packets += 1
        return {"packets": packets}

    return timed(one_pass, loops)


def with_scapy(file: str, loops: int) -> Times:
    """Read with scapy's RawPcapReader, which dissects nothing."""
    utils = importlib.import_module("scapy.utils")

    def one_pass() -> Times:
        packets = 0
        with utils.RawPcapReader(file) as pcap:
            for _data, metadata in pcap:
                metadata.sec, metadata.usec, metadata.caplen  # noqa: B018
                packets += 1
        return {"packets": packets}

    return timed(one_pass, loops)
