"""A capture file that zbuf reads itself: pcap or pcapng, from a disk or from a pipe."""

from typing import Protocol, final

from zbuf.producer.ring.contract import NativeSource

class Interfaces(Protocol):
    """Who knows the interfaces of a source."""

    def add(self, index: int, *, linktype: int, snaplen: int, block: bytes, fcs_bits: int | None) -> int: ...
    def admit(self, number: int, packet: int) -> None: ...

@final
class Mapping:
    """A file in memory: the packets in it stay where they are as long as this object is there."""

    def __init__(self, fd: int) -> None: ...

PASSED_BLOCKS: frozenset[int]

@final
class Savefile(NativeSource):
    """A pcap or pcapng file, read once from its beginning to its end; a native source."""

    lasting: Mapping | None
    damage: str | None
    def __init__(
        self,
        fd: int,
        name: str,
        interfaces: Interfaces,
        *,
        head: bytes = b"",
        stop_fd: int = -1,
        keep_blocks: bool = False,
        pass_blocks: bool = False,
    ) -> None: ...
    @property
    def packets(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def saturated(self) -> int: ...
    @property
    def left_out(self) -> int: ...
    @property
    def reason(self) -> str: ...
    def close(self) -> None: ...
    def take_blocks(self) -> list[bytes]: ...
    def read(self) -> list[tuple[bytes, int, int, int, int, int, bytes]]: ...

def is_seekable(fd: int) -> bool: ...
def is_savefile(head: bytes) -> bool: ...
