"""The busiest flows of a capture, counted in NumPy: python examples/flows.py NAME [FILTER...]

A flow is one direction of a TCP or UDP conversation over IPv4 and Ethernet. Python looks at no single packet: a few
array expressions take the 5-tuples out of a whole buffer. When the capture ends, or at Ctrl-C or SIGTERM, it prints the
ten flows with the most bytes. Later fragments have no ports, and are left out.
"""

import signal
import socket
import sys
import threading
from collections import Counter

import numpy
from numpy.typing import NDArray

from zbuf import Batch, ZbufError, connect

ETHERNET, TCP, UDP = 1, 6, 17
TYPE, IP, FRAGMENT, PROTOCOL, ADDRESSES = 12, 14, 20, 23, 26  # their places in an Ethernet frame
LONGEST = IP + 60 + 4  # bytes, up to the ports


def flows_of(batch: Batch) -> tuple[NDArray[numpy.void], NDArray[numpy.int64]]:
    """The flow of each packet that has one, in 13 bytes (addresses, ports, protocol), and its length on the wire."""
    rows = batch.index[batch.index["caplen"] >= IP + 20 + 4]
    at = rows["offset"].astype(int)
    length = (batch.data[at + IP] & 15).astype(int) * 4
    wanted = (batch.data[at + TYPE] == 8) & (batch.data[at + TYPE + 1] == 0) & (length >= 20)
    wanted &= (batch.data[at + FRAGMENT] & 31 == 0) & (batch.data[at + FRAGMENT + 1] == 0)
    wanted &= numpy.isin(batch.data[at + PROTOCOL], (TCP, UDP)) & (rows["caplen"] >= IP + length + 4)
    at, ports = at[wanted, None], (at + IP + length)[wanted, None]
    places = numpy.hstack([at + ADDRESSES + numpy.arange(8), ports + numpy.arange(4), at + PROTOCOL])
    return batch.data[places].view("V13")[:, 0], rows["wirelen"][wanted].astype(int)


def count(batch: Batch, packets: Counter[bytes], octets: Counter[bytes]) -> None:
    """Add the packets of a buffer to the counts of each flow."""
    flows, sizes = flows_of(batch)
    flows, which, counts = numpy.unique(flows, return_inverse=True, return_counts=True)
    sums = numpy.zeros(len(flows), int)
    numpy.add.at(sums, which, sizes)
    packets.update(dict(zip(flows.tolist(), counts.tolist(), strict=True)))
    octets.update(dict(zip(flows.tolist(), sums.tolist(), strict=True)))


def text(flow: bytes) -> str:
    """A flow as people write it."""
    ends = [f"{socket.inet_ntoa(flow[4 * n :][:4])}:{int.from_bytes(flow[8 + 2 * n :][:2], 'big')}" for n in range(2)]
    return f"{'TCP' if flow[12] == TCP else 'UDP'} {' > '.join(ends)}"


def main(name: str, expression: str) -> None:
    """Count to the end, and print."""
    packets: Counter[bytes] = Counter()
    octets: Counter[bytes] = Counter()
    stopped = threading.Event()
    with connect(name, filter=expression, snaplen=LONGEST) as reader:

        def stop(*_: object) -> None:
            stopped.set()
            reader.interrupt()  # it may be waiting

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        if reader.linktype != ETHERNET:
            raise ZbufError(f"{name} has link type {reader.linktype}: this takes {ETHERNET}, Ethernet")
        for batch in reader.index_batches():
            count(batch, packets, octets)
            if stopped.is_set():
                break
    for flow, total in octets.most_common(10):
        print(f"{text(flow)}: {packets[flow]} packets, {total} bytes")
    print(f"{len(octets)} flows: {packets.total()} packets, {octets.total()} bytes")


if __name__ == "__main__":
    try:
        main(sys.argv[1], " ".join(sys.argv[2:]))
    except ZbufError as error:
        sys.exit(f"flows: {error}")
