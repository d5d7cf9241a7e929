"""The consumer side: connect to a producer, and read packets with no copy.

::

    with connect("lab", filter="tcp port 80") as reader:
        for packet in reader:
            print(packet.time_ns, packet.caplen, bytes(packet))
"""

from zbuf.consumer.asynchronous import AsyncReader
from zbuf.consumer.batches import Batch
from zbuf.consumer.client import Reader
from zbuf.consumer.connection import Connection, producers
from zbuf.consumer.copies import PacketCopy
from zbuf.consumer.opening import connect, connect_async
from zbuf.consumer.reader import INDEX_DTYPE, Buffer, Packet
from zbuf.consumer.reconnect import ReconnectingReader

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
    "connect",
    "connect_async",
    "producers",
]
