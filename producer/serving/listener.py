"""One descriptor with what belongs to it: its segment, its settings, its readers."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.serving.access import Grant, Peer
from zbuf.shared.control.settings import Settings
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
    readers: dict[int, Attached] = field(default_factory=dict)
    stall: tuple[int, float] = (0, 0.0)
    """The assignment that only some readers have yet to give back, and since when (monotonic seconds) they are late."""
