"""How a descriptor is to be: what a reader may choose, and within which limits."""

from typing import Annotated, Literal

import msgspec

from zbuf.shared.memory.layout import MAX_CAPLEN

FILTER_LENGTH_MAX = 4 * 1024
DEFAULT_TIMEOUT_MS = 100
TIMEOUT_MS_MAX = 3_600_000

Direction = Literal["in", "out", "inout"]
FilterText = Annotated[str, msgspec.Meta(max_length=FILTER_LENGTH_MAX)]


class Choices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Settings and the options of connect() have in common, under the same names."""

    filter: FilterText = ""
    """A pcap-filter(7) expression; empty for everything."""
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=MAX_CAPLEN)] = MAX_CAPLEN
    """Bytes kept of each packet."""
    immediate: bool = False
    """Assign each packet at once, where a buffer is free."""
    timeout_ms: (
        Annotated[int, msgspec.Meta(ge=0, le=TIMEOUT_MS_MAX)] | Annotated[float, msgspec.Meta(ge=0, le=TIMEOUT_MS_MAX)]
    ) = DEFAULT_TIMEOUT_MS
    """Assign a buffer that is not full after this time; 0 for never."""
    direction: Direction = "inout"
    """Which packets to take; a packet whose direction is unknown is always taken."""


class Settings(Choices, frozen=True, kw_only=True):
    """How a descriptor is to be; the ioctls of bpf(4) in one piece."""

    buffer_bytes: int | None = None
    """The size of each of the two buffers, header included; None for the producer's own choice."""
