"""The consumer side: connect to a producer, and read packets with no copy.

::

    with connect("lab", filter="tcp port 80") as reader:
        for packet in reader:
            print(packet.time_ns, packet.caplen, bytes(packet))
"""

from zbuf.consumer.client import Connection, Reader, connect, producers
from zbuf.consumer.reader import INDEX_DTYPE, Buffer, Packet

__all__ = ["INDEX_DTYPE", "Buffer", "Connection", "Packet", "Reader", "connect", "producers"]
