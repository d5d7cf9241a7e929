"""An alert when a host opens too many connections: python examples/alert.py LIMIT NAME...

It watches all captures that are named, in one thread of asyncio, until they end, or until Ctrl-C or SIGTERM. If a
source sends more than LIMIT TCP SYNs over IPv4 within one second of the clock, it prints a line, once for that second.
"""

import asyncio
import signal
import socket
import sys
from collections import Counter

from zbuf import ZbufError, connect_async

SYN = "ip and tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn"
SOURCE = slice(26, 30)  # of an Ethernet frame with IPv4
SECOND_NS = 1_000_000_000


async def watch(name: str, limit: int) -> None:
    """Watch one capture to its end; it remembers one second only, however many sources a flood makes up."""
    second, sent = 0, Counter[bytes]()
    async with connect_async(name, filter=SYN, snaplen=SOURCE.stop) as reader:
        async for packet in reader:
            if packet.time_ns // SECOND_NS != second:
                second, sent = packet.time_ns // SECOND_NS, Counter()
            source = bytes(packet.data[SOURCE])
            sent[source] += 1
            if sent[source] == limit + 1:
                print(f"{name}: {socket.inet_ntoa(source)} sends more than {limit} SYNs in second {second}", flush=True)


async def main(limit: int, names: list[str]) -> None:
    """Watch them all; if one fails, all end."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (we run in it)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(watch(name, limit))


if __name__ == "__main__":
    try:
        asyncio.run(main(int(sys.argv[1]), sys.argv[2:]))
    except* ZbufError as errors:
        sys.exit(f"alert: {errors.exceptions[0]}")
    except* asyncio.CancelledError:
        pass
