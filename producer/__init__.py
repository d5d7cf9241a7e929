"""The producer side: packets in, shared buffers out.

Three lines make any Python program a producer::

    with Producer("lab") as producer:
        for data in packets:
            producer.append(data)
"""

from zbuf.producer.packet_sources import RawPacket, ScapySource
from zbuf.producer.service import Producer
from zbuf.producer.sources import FileSource

__all__ = ["FileSource", "Producer", "RawPacket", "ScapySource"]
