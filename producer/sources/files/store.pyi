"""Packets in memory, to be pumped any number of times."""

from typing import final

from zbuf.producer.ring.contract import NativeSource, Rewriter

@final
class PacketStore(NativeSource):
    """Packets in memory, to be pumped any number of times."""

    captured_bytes: int
    def __len__(self) -> int: ...
    @property
    def table_bytes(self) -> int: ...
    @property
    def sizes(self) -> tuple[list[int], int]: ...
    def load(self, source: NativeSource, packets: int) -> bool: ...
    def rewind(self, passes: int, rewriter: Rewriter | None = None) -> None: ...
