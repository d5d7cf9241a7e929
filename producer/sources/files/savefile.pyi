"""A capture file that zbuf reads itself: pcap or pcapng, from a disk or from a pipe."""

from typing import Protocol, final

from zbuf.producer.ring.contract import NativeSource

class Interfaces(Protocol):
    """Who knows the interfaces of a source."""

    def add(self, index: int, *, linktype: int, block: bytes, fcs_bits: int | None) -> int: ...

LONGEST_PASSED_BLOCK_BYTES: int

@final
class Mapping:
    """A file in memory: the packets in it stay where they are as long as this object is there."""

    def __init__(self, fd: int) -> None: ...

@final
class Savefile(NativeSource):
    """A pcap or pcapng file, read once from its beginning to its end; a native source."""

    lasting: Mapping | None
    left_out: int
    damage: str | None
    def __init__(
        self,
        fd: int,
        name: str,
        interfaces: Interfaces,
        *,
        head: bytes = b"",
        stop_fd: int = -1,
    ) -> None: ...
    @property
    def packets(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def snaplen(self) -> int: ...
    @property
    def saturated(self) -> int: ...
    @property
    def reason(self) -> str: ...
    def close(self) -> None: ...
    def read(self) -> list[tuple[bytes, int, int, int, int, int, bytes]] | bytes: ...

def is_seekable(fd: int) -> bool: ...
def is_savefile(head: bytes) -> bool: ...
