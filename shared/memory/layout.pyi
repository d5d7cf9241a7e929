"""Page 0 of a segment: written by its producer, checked by whoever attaches to it."""

from typing_extensions import Buffer

ABI: int
PAGE_BYTES: int
MAX_BUFFER_BYTES: int
MAX_CAPLEN: int
HEADER_BYTES: int
ACK_BYTES: int
DEFAULT_BUFFER_BYTES: int

class Layout:
    """Where everything lies in one segment; all sizes and offsets are in bytes."""

    producer: str
    descriptor: str
    epoch: int
    segment_bytes: int
    prologue_offset: int
    prologue_bytes: int
    prologue_room: int
    buffer_offsets: tuple[int, int]
    buffer_bytes: int
    snaplen: int
    state: int
    def __init__(
        self,
        producer: str,
        descriptor: str,
        epoch: int,
        buffer_bytes: int,
        prologue_bytes: int,
        snaplen: int,
        growth_bytes: int = 0,
    ) -> None: ...

def check_buffer_bytes(size: int) -> None: ...
def write_layout(memory: Buffer, layout: Layout) -> None: ...
def open_segment(memory: Buffer) -> None: ...
def read_layout(memory: Buffer, closed_too: bool = False) -> Layout: ...
def read_ledger(memory: Buffer) -> dict[str, int]: ...
def unread_blocks(memory: Buffer, layout: Layout) -> list[tuple[int, int, int, int, int]]: ...
def announced(blocks: Buffer) -> bytes: ...
