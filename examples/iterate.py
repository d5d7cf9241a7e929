"""Read packets in plain Python: python examples/iterate.py NAME [FILTER...]"""

import sys

from zbuf import connect

with connect(sys.argv[1], filter=" ".join(sys.argv[2:])) as reader:
    packets = octets = 0
    for packet in reader:
        packets += 1
        octets += packet.caplen
print(f"{packets} packets, {octets} bytes; the producer {reader.end_reason}")
