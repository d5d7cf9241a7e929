"""The producer side: packets in, shared buffers out.

Three lines make any Python program a producer::

    with Producer("lab") as producer:
        for data in packets:
            producer.append(data)
"""

from typing import TYPE_CHECKING

from zbuf.shared.lazy import lazily

if TYPE_CHECKING:
    from zbuf.producer.producer import Producer
    from zbuf.producer.serving.limits import Limits
    from zbuf.producer.sources.files.file_source import FileSource
    from zbuf.producer.sources.python import RawPacket, ScapySource

__all__ = ["FileSource", "Limits", "Producer", "RawPacket", "ScapySource"]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "producer": ["Producer"],
        "serving.limits": ["Limits"],
        "sources.files.file_source": ["FileSource"],
        "sources.python": ["RawPacket", "ScapySource"],
    },
)
