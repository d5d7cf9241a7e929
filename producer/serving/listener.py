"""One descriptor with what belongs to it: its segment, its settings, its readers."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from mmap import mmap

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.serving.access import Grant, Peer
from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.producer.serving.shares import Booking
from zbuf.shared.control.settings import Settings
from zbuf.shared.memory.pcapng import Interface, interface_description
from zbuf.shared.memory.segment import Segment


@dataclass
class Attached:
    """A reader, as its producer knows it."""

    number: int
    peer: Peer
    ack_map: mmap
    """The producer's mapping of its ack page."""
    doorbell: int
    """The producer's end of its doorbell, a file descriptor."""
    hang_up: Callable[[], None] = lambda: None
    """Closes its connection; from any thread."""

    def release(self) -> None:
        """Close the producer's side of its ack page and doorbell."""
        self.ack_map.close()
        os.close(self.doorbell)


@dataclass
class Listener:
    """A descriptor with what belongs to it."""

    number: int
    join: str | None
    """The name that readers share it under; None for a private one."""
    settings: Settings
    segment: Segment
    descriptor: Descriptor
    uid: int
    """The user that opened it."""
    grant: Grant
    """What its readers may see."""
    filters: LinkFilters
    guards: LinkFilters
    """The grant's filter, for each link type."""
    readers: dict[int, Attached] = field(default_factory=dict)
    stall: tuple[int, float] = (0, 0.0)
    """The assignment that only some readers have yet to give back, and since when (monotonic seconds) they are late."""

    booking: Booking | None = None
    """What its user has booked for it."""

    def release(self) -> None:
        """Give back what was booked for it."""
        if self.booking is not None:
            self.booking.release()

    def announce(self, interfaces: Iterable[Interface]) -> None:
        """Tell the readers of interfaces that appeared; only the owner may."""
        for interface in interfaces:
            self.descriptor.announce(
                interface_description(interface, self.settings.snaplen),
                self.filters.program(interface.linktype),
                self.guards.program(interface.linktype),
            )
