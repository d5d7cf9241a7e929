"""Opening a live interface by libpcap, and compiling filters for it."""

from typing import final

ANY: str
DIRECTIONS: dict[str, int]
PRECISIONS: dict[str, int]
KNOWS_TAGS: bytes

def has_ring(name: str) -> bool: ...

@final
class LiveInterface:
    """One interface, open for capture."""

    name: str
    shown: str
    linktype: int
    warnings: list[str]
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
        linktype: str | None = None,
        time_stamp_type: str | None = None,
        time_stamp_precision: str = "nano",
    ) -> None: ...
    def statistics(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...

@final
class LiveFilters:
    """Compiles filters for the packets of one interface as libpcap does for the kernel."""

    def __init__(self, name: str, linktype: str | None = None) -> None: ...
    def compile(self, expression: str, *, optimize: bool = False) -> bytes: ...
    def close(self) -> None: ...
