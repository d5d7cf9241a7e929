"""The messages between a producer and its clients.

A client sends one request at a time, and gets one answer to each. A connection whose Connect was answered is the life
of one reader: when the connection closes, for whatever reason, the producer takes the reader's buffers back.
"""

from typing import Annotated

import msgspec

from zbuf.shared.control.settings import FilterText, Settings
from zbuf.shared.control.statistics import Count, Statistics
from zbuf.shared.memory.layout import ABI, MAX_CAPLEN
from zbuf.shared.names import NAME_LENGTH_MAX, Name


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, forbid_unknown_fields=True):
    """One datagram."""


class Connect(_Message, frozen=True):
    """Open a descriptor, or join one: the first request of a reader."""

    abi: int = ABI
    join: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX)] | None = None
    """The name of a descriptor to share with readers that give the same name; None for a private descriptor."""
    settings: Settings | None = None
    """None to take a joined descriptor as it is, or a new one with the defaults."""


class Stats(_Message, frozen=True):
    """Ask for Statistics; a connection needs no descriptor for it."""


class Rotate(_Message, frozen=True):
    """Assign what is stored, although the buffer is not full."""


class SetFilter(_Message, frozen=True):
    """Change the filter of the descriptor, and flush the descriptor if asked to."""

    filter: FilterText
    flush: bool = True


class Flush(_Message, frozen=True):
    """Discard what is stored, and begin the ledger anew."""


class Leave(_Message, frozen=True):
    """Give everything back; the answer comes when that is done."""


Request = Connect | Stats | Rotate | SetFilter | Flush | Leave


class Connected(_Message, frozen=True):
    """The answer to Connect; with it come three file descriptors: the segment, the ack page, the doorbell."""

    producer: Name
    descriptor: Count
    reader: Count
    sequence: Count
    """The number of the first buffer that this reader will be assigned."""
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=MAX_CAPLEN)]
    filter: str
    interfaces: list[str]
    """Those that were announced before that buffer, which is as far as the reader reads the prologue; of one whose
    packets the reader may not see, the name is empty."""
    offered: Count = 0
    """Packets that the producer's source had given before this reader was let in."""
    warnings: list[str] = []
    """What is other than the reader may think: interfaces for whose link type its filter can't be used."""


class Done(_Message, frozen=True):
    """The request was carried out."""

    changed: bool = True
    """Of a Rotate: whether there was something to assign, and a buffer free for what comes next."""
    warnings: list[str] = []
    """Of a SetFilter: as those of Connected."""


class Refusal(_Message, frozen=True):
    """The request was not carried out; the connection goes on."""

    reason: str


Answer = Connected | Done | Refusal | Statistics


class Parts(_Message, frozen=True):
    """An answer is too large for a datagram: the bytes of one follow, in as many datagrams as it takes."""

    bytes: Annotated[int, msgspec.Meta(ge=1)]
