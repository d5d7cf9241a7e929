"""What a producer says about itself: ledgers, readers, interfaces."""

from typing import Literal

import msgspec

from zbuf.shared.control.settings import Settings

FILTER_SHOWN_LENGTH = 200

InterfaceState = Literal["up", "down", "lost"]


class Ledger(msgspec.Struct, frozen=True):
    """A descriptor's counts of packets, 64-bit.

    At every instant received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered.
    """

    received: int = 0
    """Given to the descriptor."""
    filtered: int = 0
    """Rejected by its filter."""
    accepted: int = 0
    """Passed by its filter."""
    delivered: int = 0
    """Acknowledged by its readers."""
    dropped: int = 0
    """Lost, because no buffer was free."""
    abandoned: int = 0
    """Assigned to readers that all left without acknowledging."""
    buffered: int = 0
    """Not acknowledged yet."""
    truncated: int = 0
    """Cut short to the snaplen or to the size of a buffer."""


class ReaderStatistics(msgspec.Struct, frozen=True):
    """One reader of a descriptor."""

    reader: int
    pid: int
    delivered: int
    """Packets that it acknowledged."""
    holding: int
    """Buffers that it has not given back: 0, 1 or 2."""
    user: int = 0
    """The user id that it connected with."""
    stalls: int = 0
    """Times that no buffer was free because this reader had not given one back."""
    stalled: int = 0
    """Packets that its descriptor dropped in those times."""


class DescriptorStatistics(Ledger, frozen=True, kw_only=True):
    """One descriptor, its ledger and its readers."""

    descriptor: int
    join: str | None
    settings: Settings
    """As requested; a filter of more than FILTER_SHOWN_LENGTH characters is cut short here."""
    buffered_bytes: int = 0
    """Bytes in both buffers that are appended or assigned, and not acknowledged yet."""
    bells: int
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
    received: int
    """Passed by the capture's filter, including those that were dropped."""
    taken: int
    """Read from the kernel, and offered to the descriptors."""
    dropped_by_kernel: int
    """Lost, because the kernel's buffer was full: `--kernel-buffer` sets its size."""
    dropped_by_interface: int
    """Lost by the interface or its driver, as far as they report it."""
    lost: int
    """Times that it failed or went away."""
    taken_bytes: int = 0
    """The length on the wire of the packets taken."""


class Statistics(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="statistics", forbid_unknown_fields=True
):
    """The answer to Stats."""

    producer: str
    pid: int
    epoch: int
    uptime_s: float
    linktype: int
    interfaces: list[str]
    offered: int
    """Packets that the source gave."""
    waits: int
    """Times that a lossless producer slept for its readers."""
    descriptors: list[DescriptorStatistics]
    closed: Ledger
    """The sum over the descriptors whose readers have all left."""
    live: list[InterfaceStatistics] = []
    """The interfaces of a live capture."""
    evicted: int = 0
    """Readers that were evicted, because they held up the other readers of their descriptor."""
    refused: int = 0
    """Connections that were refused."""
