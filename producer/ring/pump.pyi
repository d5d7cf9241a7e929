"""The native loop: batches of packets from a source into every descriptor, without the GIL."""

from typing import final

from typing_extensions import Buffer

from zbuf.producer.ring.contract import NativeSource, PacketSink
from zbuf.producer.ring.filter_share import IdleTime

@final
class Pump:
    """Feeds packets to descriptors, each packet to all of them."""

    interfaces_appeared: bool
    lossless: bool
    idle: IdleTime
    offered: int
    waits: int
    def __init__(self, *, lossless: bool = False) -> None: ...
    def attach(self, descriptor: PacketSink) -> None: ...
    def detach(self, descriptor: PacketSink) -> None: ...
    def interrupt(self) -> None: ...
    def run(self, source: NativeSource) -> bool: ...
    def offer(
        self, data: Buffer, time_ns: int, wirelen: int | None = None, interface: int = 0, direction: int = 0
    ) -> bool: ...
    def resume(self) -> bool: ...
    def cancel(self) -> None: ...
