"""scapy's sniff() on a capture file or on anything that zbuf reads: python examples/sniff.py FILE [FILTER...]"""

import sys

from scapy.all import sniff

from zbuf import ScapySocket, connect

with connect(file=sys.argv[1], filter=" ".join(sys.argv[2:])) as reader:
    sniff(opened_socket=ScapySocket(reader), prn=lambda packet: print(packet.summary()), store=False)
