"""The consumer side: connect to a producer, and read packets with no copy.

::

    with connect("lab", filter="tcp port 80") as reader:
        for packet in reader:
            print(packet.time_ns, packet.caplen, bytes(packet))
"""

from typing import TYPE_CHECKING

from zbuf.shared.lazy import lazily

if TYPE_CHECKING:
    from zbuf.consumer.reading.asynchronous import AsyncReader
    from zbuf.consumer.reading.batches import Batch
    from zbuf.consumer.reading.buffer import INDEX_DTYPE, Buffer, Packet
    from zbuf.consumer.reading.connection import Connection, producers
    from zbuf.consumer.reading.copies import PacketCopy
    from zbuf.consumer.reading.opening import connect, connect_async
    from zbuf.consumer.reading.reader import Reader
    from zbuf.consumer.reading.reconnecting import ReconnectingReader
    from zbuf.consumer.scapy import ScapySocket

__all__ = [
    "INDEX_DTYPE",
    "AsyncReader",
    "Batch",
    "Buffer",
    "Connection",
    "Packet",
    "PacketCopy",
    "Reader",
    "ReconnectingReader",
    "ScapySocket",
    "connect",
    "connect_async",
    "producers",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "reading.asynchronous": ["AsyncReader"],
        "reading.batches": ["Batch"],
        "reading.connection": ["Connection", "producers"],
        "reading.copies": ["PacketCopy"],
        "reading.opening": ["connect", "connect_async"],
        "reading.reader": ["Reader"],
        "reading.reconnecting": ["ReconnectingReader"],
        "reading.buffer": ["INDEX_DTYPE", "Buffer", "Packet"],
        "scapy": ["ScapySocket"],
    },
)
