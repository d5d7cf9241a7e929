"""A line for each DNS question and answer, by scapy: python examples/dns.py NAME

sniff(), and everything else in scapy that takes a socket, takes a reader. Only packets that pass the filter are
dissected.
"""

import signal
import sys
import time
from typing import Any

from scapy.all import Packet, sniff
from scapy.layers.dns import DNS

from zbuf import ScapySocket, ZbufError, connect


def text(value: Any) -> str:
    """A field of a record, without anything that a terminal would obey."""
    return repr(value)[2:-1] if isinstance(value, bytes) else ascii(value).strip("'")


def show(packet: Packet) -> None:
    """A line for each question of a query, and for each answer of a reply, as far as they can be dissected."""
    if DNS not in packet:
        return
    clock = time.strftime("%H:%M:%S", time.gmtime(int(packet.time))) + f"{packet.time % 1:.9f}"[1:]
    message = packet[DNS]
    for question in message.qd if message.qd and not message.qr else []:
        if hasattr(question, "qname"):
            print(f"{clock} {message.id} {text(question.qname)} {question.sprintf('%qtype%')}?", flush=True)
    for record in message.an or []:
        if hasattr(record, "rrname"):
            data = text(getattr(record, "rdata", "..."))  # some types have fields of their own
            print(f"{clock} {message.id} {text(record.rrname)} {record.sprintf('%type%')} {data}", flush=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # which sniff() ends for
    try:
        with connect(sys.argv[1], filter="udp port 53") as reader:
            sniff(opened_socket=ScapySocket(reader), prn=show, store=False)
    except KeyboardInterrupt:
        sys.exit()
    except ZbufError as error:
        sys.exit(f"dns: {error}")
