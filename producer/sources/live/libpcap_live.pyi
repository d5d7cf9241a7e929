"""Live interfaces by libpcap: on Linux its memory-mapped ring (TPACKET_V3), read without the GIL."""

from collections.abc import Callable, Iterable
from typing import final

from zbuf.producer.ring.contract import NativeSource

DIRECTIONS: dict[str, int]

def is_loopback(name: str) -> bool: ...

@final
class LiveInterface:
    """One interface, open for capture."""

    name: str
    linktype: int
    warning: str | None
    def __init__(
        self,
        name: str,
        *,
        snaplen: int = 262144,
        promiscuous: bool = True,
        buffer_bytes: int = 16777216,
        immediate: bool = False,
        direction: str = "inout",
        expression: str = "",
    ) -> None: ...
    def statistics(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...

@final
class LiveCapture(NativeSource):
    """The packets of several interfaces, each in its order; a native source that does not end."""

    def __init__(self, interfaces: Iterable[LiveInterface], on_lost: Callable[[int, str], None]) -> None: ...
    def install(self, place: int, interface: LiveInterface) -> None: ...
    def remove(self, place: int, why: str) -> None: ...
    def note_drops(self, place: int, packets: int) -> None: ...
    def packets(self, place: int) -> int: ...
    def close(self) -> None: ...
    def check(self) -> None: ...
