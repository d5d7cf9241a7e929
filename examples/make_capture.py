"""Make a small capture of real protocols, the same at every run: python examples/make_capture.py FILE

scapy makes ARP, DNS, TCP with HTTP, ICMP, IPv6, VLAN tags and IP fragments. The file is a pcap file with nanoseconds.
"""

import random
import sys
from collections.abc import Iterator
from typing import Any

from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapWriter

START_NS = 1_700_000_000_000_000_000
CLIENT, SERVER, RESOLVER = "192.0.2.10", "198.51.100.20", "192.0.2.53"
CLIENT_MAC, ROUTER_MAC = "02:00:00:00:00:10", "02:00:00:00:00:01"
OUT: dict[str, Any] = {"src": CLIENT_MAC, "dst": ROUTER_MAC}
IN: dict[str, Any] = {"src": ROUTER_MAC, "dst": CLIENT_MAC}


def arp() -> Iterator[Packet]:
    """Who has the router, and its answer."""
    who = ARP(hwsrc=CLIENT_MAC, psrc=CLIENT, pdst="192.0.2.1")
    yield Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff") / who
    yield Ether(**IN) / ARP(op="is-at", hwsrc=ROUTER_MAC, psrc="192.0.2.1", hwdst=CLIENT_MAC, pdst=CLIENT)


def dns(number: int) -> Iterator[Packet]:
    """A query and its answer."""
    question = DNSQR(qname=f"host{number}.example.org")
    port = 1024 + number
    yield Ether(**OUT) / IP(src=CLIENT, dst=RESOLVER) / UDP(sport=port) / DNS(id=number, rd=1, qd=question)
    answer = DNSRR(rrname=question.qname, rdata=SERVER, ttl=300)
    reply = DNS(id=number, qr=1, ra=1, qd=question, an=answer)
    yield Ether(**IN) / IP(src=RESOLVER, dst=CLIENT) / UDP(sport=53, dport=port) / reply


def http(number: int, body: bytes, tag: bool) -> Iterator[Packet]:
    """A TCP connection with one request and its answer, on a VLAN or not."""
    sport, sent, received = 20000 + number, 1000, 5000
    vlan = Dot1Q(vlan=100 + number % 3) if tag else None

    def segment(outbound: bool, flags: str, data: bytes = b"") -> Packet:
        link = Ether(**OUT) if outbound else Ether(**IN)
        network = IP(src=CLIENT, dst=SERVER) if outbound else IP(src=SERVER, dst=CLIENT)
        if outbound:
            transport = TCP(sport=sport, dport=80, seq=sent, ack=received, flags=flags)
        else:
            transport = TCP(sport=80, dport=sport, seq=received, ack=sent, flags=flags)
        packet = (link / vlan / network / transport) if vlan is not None else (link / network / transport)
        return packet / Raw(data) if data else packet

    request = f"GET /page{number} HTTP/1.1\r\nHost: www.example.org\r\n\r\n".encode()
    yield segment(True, "S")
    yield segment(False, "SA")
    yield segment(True, "A")
    yield segment(True, "PA", request)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for offset in range(0, len(answer), 1400):
        yield segment(False, "PA", answer[offset : offset + 1400])
    yield segment(True, "FA")
    yield segment(False, "FA")


def ping(number: int) -> Iterator[Packet]:
    """An echo and its reply, over IPv4 and IPv6."""
    yield Ether(**OUT) / IP(src=CLIENT, dst=SERVER) / ICMP(id=7, seq=number) / Raw(b"zbuf" * 14)
    yield Ether(**IN) / IP(src=SERVER, dst=CLIENT) / ICMP(type="echo-reply", id=7, seq=number) / Raw(b"zbuf" * 14)
    yield Ether(**OUT) / IPv6(src="2001:db8::10", dst="2001:db8::20") / ICMPv6EchoRequest(seq=number, data=b"zbuf" * 8)
    yield Ether(**IN) / IPv6(src="2001:db8::20", dst="2001:db8::10") / ICMPv6EchoReply(seq=number, data=b"zbuf" * 8)


def fragments(body: bytes) -> Iterator[Packet]:
    """A large UDP datagram in pieces."""
    yield from fragment(Ether(**OUT) / IP(src=CLIENT, dst=SERVER, id=77) / UDP(sport=9, dport=9) / Raw(body), 1480)


def packets() -> list[tuple[int, bytes]]:
    """The capture: (time in nanoseconds since 1970, bytes) of each packet."""
    source = random.Random(20)  # noqa: S311  (the same packets at every run)
    made: list[Packet] = [*arp()]
    for number in range(60):
        made += dns(number)
        made += http(number, source.randbytes(source.choice([80, 300, 700, 2500])), tag=number % 4 == 0)
        made += ping(number)
    made += fragments(source.randbytes(4000))
    time_ns, timed = START_NS, []
    for packet in made:
        time_ns += source.randrange(1_000, 2_000_000)
        timed.append((time_ns, bytes(packet)))
    return timed


def write(path: str, timed: list[tuple[int, bytes]]) -> None:
    """Write packets to a pcap file with nanosecond times."""
    with PcapWriter(path, nano=True, linktype=1) as writer:
        writer.write_header(None)
        for time_ns, data in timed:
            seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
            writer.write_packet(data, sec=seconds, usec=nanoseconds)


if __name__ == "__main__":
    write(sys.argv[1], packets())
