"""What a producer says about itself: ledgers, readers, interfaces."""

from typing import Annotated, Literal

import msgspec

from zbuf.shared.control.settings import Settings
from zbuf.shared.names import Name

FILTER_SHOWN_LENGTH = 200

InterfaceState = Literal["up", "down", "lost"]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A number of 63 bits that is not negative: of packets, bytes, buffers, readers."""
LinkType = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]


class Ledger(msgspec.Struct, frozen=True):
    """A descriptor's counts of packets, and of their bytes on the wire, 64-bit.

    At every instant received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered, in
    packets and in bytes.
    """

    received: Count = 0
    """Given to the descriptor."""
    filtered: Count = 0
    """Rejected by its filter."""
    accepted: Count = 0
    """Passed by its filter."""
    delivered: Count = 0
    """Acknowledged by its readers."""
    dropped: Count = 0
    """Lost, because no buffer was free."""
    abandoned: Count = 0
    """Assigned to readers that all left without acknowledging."""
    buffered: Count = 0
    """Not acknowledged yet."""
    truncated: Count = 0
    """Cut short to the snaplen or to the size of a buffer."""
    received_bytes: Count = 0
    filtered_bytes: Count = 0
    accepted_bytes: Count = 0
    delivered_bytes: Count = 0
    dropped_bytes: Count = 0
    abandoned_bytes: Count = 0
    buffered_bytes: Count = 0


PACKET_COUNTS = tuple(name for name in Ledger.__struct_fields__ if not name.endswith("_bytes"))
"""The counts of a ledger that are of packets."""


class ReaderStatistics(msgspec.Struct, frozen=True):
    """One reader of a descriptor."""

    reader: Count
    pid: Count
    """0 where it is not known, or not shown."""
    delivered: Count
    """Packets that it acknowledged."""
    holding: Count
    """Buffers that it has not given back: 0, 1 or 2."""
    user: Count | None = 0
    """The user id that it connected with; None where another user's are not shown."""
    stalls: Count = 0
    """Times that no buffer was free because this reader had not given one back."""
    stalled: Count = 0
    """Packets that its descriptor dropped in those times."""


class DescriptorStatistics(Ledger, frozen=True, kw_only=True):
    """One descriptor, its ledger and its readers."""

    descriptor: Count
    join: Name | None
    settings: Settings
    """As asked for; a filter of more than FILTER_SHOWN_LENGTH characters is cut short here."""
    stored_bytes: Count = 0
    """Of both buffers, what is appended or assigned, and not acknowledged yet."""
    bells: Count
    """Times that a sleeping reader was woken."""
    open: bool
    """Whether it still has readers."""
    readers: list[ReaderStatistics]


class InterfaceStatistics(msgspec.Struct, frozen=True):
    """A live interface, in the kernel's terms; its counts begin when it is opened, and go on after it was lost."""

    interface: str
    engine: str
    """What reads it: "pcap" or "scapy"."""
    state: InterfaceState
    """"lost": it failed or went away, and is opened again as soon as it returns."""
    received: Count
    """Passed by the capture's filter, including those that were dropped."""
    taken: Count
    """Read from the kernel, and offered to the descriptors."""
    dropped_by_kernel: Count
    """Lost, because the kernel's buffer was full: `--kernel-buffer` sets its size."""
    dropped_by_interface: Count
    """Lost by the interface or its driver, as far as they report it."""
    lost: Count
    """Times that it failed or went away."""
    taken_bytes: Count = 0
    """The length on the wire of the packets taken."""


class Statistics(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="statistics", forbid_unknown_fields=True
):
    """The answer to Stats."""

    producer: Name
    pid: Count
    epoch: Count
    uptime_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    interfaces: list[str]
    linktypes: list[LinkType]
    """The LINKTYPE_ value of each interface."""
    offered: Count
    """Packets that the source gave."""
    waits: Count
    """Times that a lossless producer slept for its readers."""
    descriptors: list[DescriptorStatistics]
    closed: Ledger
    """The sum over the descriptors whose readers have all left."""
    live: list[InterfaceStatistics] = []
    """The interfaces of a live capture."""
    evicted: Count = 0
    """Readers that were evicted, because they held up the other readers of their descriptor."""
    refused: Count = 0
    """Connections that were refused."""
