"""The producer side: packets in, shared buffers out.

Three lines make any Python program a producer::

    with Producer("lab") as producer:
        for data in packets:
            producer.append(data)
"""

from typing import TYPE_CHECKING

from zbuf.shared.lazy import lazily

if TYPE_CHECKING:
    from zbuf.producer.load.schedule import Schedule
    from zbuf.producer.producer import Producer
    from zbuf.producer.replaying import Replay, replay
    from zbuf.producer.serving.access import Rule
    from zbuf.producer.serving.limits import Limits
    from zbuf.producer.sources.files.file_source import FileSource
    from zbuf.producer.sources.live.live_source import LiveSource
    from zbuf.producer.sources.live.opening import LiveOptions
    from zbuf.producer.sources.python import RawPacket, ScapySource
    from zbuf.shared.memory.pcapng import Interface

__all__ = [
    "FileSource",
    "Interface",
    "Limits",
    "LiveOptions",
    "LiveSource",
    "Producer",
    "RawPacket",
    "Replay",
    "Rule",
    "ScapySource",
    "Schedule",
    "replay",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "load.schedule": ["Schedule"],
        "producer": ["Producer"],
        "replaying": ["Replay", "replay"],
        "serving.access": ["Rule"],
        "serving.limits": ["Limits"],
        "sources.files.file_source": ["FileSource"],
        "sources.live.live_source": ["LiveSource"],
        "sources.live.opening": ["LiveOptions"],
        "sources.python": ["Interface", "RawPacket", "ScapySource"],
    },
)
