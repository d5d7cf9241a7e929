"""One listener on a capture: two zbufs, the readers that share them, a filter, counters."""

from collections.abc import Iterable, Sequence
from typing import TypedDict, final

from typing_extensions import Buffer

from zbuf.producer.ring.contract import PacketSink
from zbuf.producer.ring.filter_share import FilterShare

class Slots(TypedDict):
    """Which buffer is where; see Descriptor.slots()."""

    store: int
    hold: int | None
    free: int | None
    assigned: tuple[bool, bool]
    generations: tuple[int, int]
    lengths: tuple[int, int]
    packets: tuple[int, int]
    next_sequence: int

@final
class Descriptor(PacketSink):
    """Two zbufs, their readers, a filter and a ledger."""

    snaplen: int
    immediate: bool
    timeout_ns: int
    bells: int
    cost_ns: int
    blocks_left_out: int
    announced: int
    prologue_full: bool
    finished: bool
    def __init__(
        self,
        *,
        snaplen: int = 262144,
        immediate: bool = False,
        timeout_ms: float = 0,
        direction: str = "inout",
        interfaces: int | None = None,
        guard: bytes | Sequence[bytes] = b"",
    ) -> None: ...
    @staticmethod
    def max_buffer_bytes() -> int: ...
    @property
    def held_by_views(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def capacity_bytes(self) -> int: ...
    def set_buffers(self, memory: Buffer, offset_a: int, offset_b: int, buffer_bytes: int) -> None: ...
    def close(self) -> None: ...
    def add_reader(self, number: int, ack_page: Buffer, doorbell: int) -> tuple[int, int]: ...
    def remove_reader(self, number: int) -> int: ...
    def reader_counts(self, number: int) -> tuple[int, int]: ...
    def reader_stalls(self, number: int) -> tuple[int, int]: ...
    def stalled_by(self) -> tuple[int, list[int]]: ...
    def append_bytes(
        self,
        data: Buffer,
        *,
        time_ns: int = 0,
        wirelen: int | None = None,
        interface: int = 0,
        direction: str = "inout",
    ) -> None: ...
    def append_fragments(
        self,
        fragments: Iterable[Buffer],
        *,
        time_ns: int = 0,
        wirelen: int | None = None,
        interface: int = 0,
        direction: str = "inout",
    ) -> None: ...
    def rotate(self) -> bool: ...
    def tick(self, now_ns: int) -> None: ...
    def flush(self) -> None: ...
    def announce(self, block: bytes, program: bytes | None = None, guard: bytes | None = None) -> None: ...
    def interfaces_to_come(self) -> int: ...
    def charge(self, share: FilterShare | None) -> None: ...
    def set_filter(self, program: bytes | Sequence[bytes], flush: bool = True) -> None: ...
    def finish(self) -> None: ...
    def abandon(self) -> None: ...
    def ledger(self) -> dict[str, int]: ...
    def slots(self) -> Slots: ...
