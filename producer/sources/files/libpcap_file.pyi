"""A capture file that libpcap reads."""

from typing import final

from zbuf.producer.ring.contract import NativeSource

@final
class CaptureFile(NativeSource):
    """A capture file, read once from its beginning to its end."""

    interface: int
    linktype: int
    packets: int
    damage: str | None
    def __init__(self, fd: int, name: str, interface: int = 0) -> None: ...
    def close(self) -> None: ...
