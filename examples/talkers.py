"""The ten IPv4 hosts that sent the most bytes: python examples/talkers.py FILE"""

import socket
import sys
from collections import Counter

from zbuf import connect

sent = Counter[bytes]()
with connect(file=sys.argv[1], filter="ip", snaplen=34) as reader:  # Ethernet's and IPv4's headers
    for packet in reader:
        sent[packet[26:30]] += packet.wirelen
for host, octets in sent.most_common(10):
    print(f"{socket.inet_ntoa(host):<15} {octets:>12,} bytes")
