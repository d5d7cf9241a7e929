"""What readers say of themselves and what can be asked of them: told here once, for all kinds of readers."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from zbuf.consumer.reading.batches import Batch, batches
from zbuf.consumer.reading.buffer import Buffer
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.options import check_filter
from zbuf.shared import control
from zbuf.shared.arguments import checked
from zbuf.shared.closing import Closing
from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.pcapng import Interface
from zbuf.shared.names import printable

log = logging.getLogger("zbuf")

EndReason = Literal["closed", "moved", "producer died", "evicted", "left"]


@dataclass(frozen=True)
class Facts:
    """What a reader learned when its producer let it in, and of interfaces that appeared since."""

    name: str
    descriptor: int
    snaplen: int
    prologue: bytes
    interfaces: list[Interface]
    offered_before: int
    """Packets that the producer's source had given before this reader was let in."""
    warnings: list[str]


class Described:
    """What every reader says of itself."""

    def _facts(self) -> Facts:
        raise NotImplementedError

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers; None while there may be."""
        raise NotImplementedError

    def __repr__(self) -> str:
        state = self.end_reason or "open"
        return f"<zbuf {type(self).__name__} of {self.name!r}: descriptor {self.descriptor}, {state}>"

    @property
    def name(self) -> str:
        """The producer's name."""
        return self._facts().name

    @property
    def descriptor(self) -> int:
        """The number of the descriptor that this reader shares or has for itself."""
        return self._facts().descriptor

    @property
    def snaplen(self) -> int:
        """Bytes kept of each packet."""
        return self._facts().snaplen

    @property
    def linktype(self) -> int:
        """LINKTYPE_ value of the first interface's packets; in most captures, of all packets."""
        return self.interfaces[0].linktype

    @property
    def linktypes(self) -> tuple[int, ...]:
        """The LINKTYPE_ value of each interface's packets."""
        return tuple(interface.linktype for interface in self.interfaces)

    @property
    def prologue(self) -> bytes:
        """The pcapng blocks that make a capture file when the buffers' data follow them.

        It describes the interfaces that were announced up to and including the last buffer taken: that buffer's own
        head (Buffer.head_bytes) is left out of a file that begins with it.
        """
        return self._facts().prologue

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces that packets come from, in the order of Packet.interface; those that appear are added."""
        return self._facts().interfaces

    @property
    def offered_before(self) -> int:
        """Packets that the producer's source had given before this reader was let in."""
        return self._facts().offered_before

    @property
    def warnings(self) -> list[str]:
        """What may surprise: interfaces that the filter can't be used for, so that none of their packets come."""
        return self._facts().warnings


class Asking(Described, Closing):
    """What can be asked of a reader, and of its producer through it; each request waits for its answer.

    Each of these raises ControlError where the producer has gone away.
    """

    def _control(self) -> Connection:
        raise NotImplementedError

    def buffers(self) -> Iterator[Buffer]:
        """Iterate over the buffers, each valid until the next is taken; ends with the stream."""
        raise NotImplementedError

    def index_batches(self) -> Iterator[Batch]:
        """Iterate over the buffers as NumPy sees them, each valid until the next is taken: see Batch."""
        return batches(self.buffers())

    def stats(self) -> control.Statistics:
        """What the producer says of itself, its descriptors and their readers; each ledger adds up."""
        return self._control().stats()

    def rotate(self) -> bool:
        """Have what is stored assigned, although the buffer is not full.

        Returns:
            False where nothing was stored, or no buffer is free for what comes next.
        """
        return cast(control.Done, self._control().request(control.Rotate())[0]).changed

    @checked
    def set_filter(self, expression: str | None, *, flush: bool = True) -> None:
        """Change the filter for packets to come.

        Args:
            expression: pcap-filter(7); None or empty for everything.
            flush: discard what the old filter let in and is not assigned yet, and begin the ledger anew.

        Raises:
            Refused: it does not compile, or others share the descriptor.
            ValueRefused: it is too long, or contains a NUL character or bytes that are not valid text.
            TypeError: an argument is of the wrong type.
        """
        check_filter(expression or "")
        answer, _ = self._control().request(control.SetFilter(filter=expression or "", flush=flush))
        log_warnings(self.name, cast(control.Done, answer).warnings)

    def flush(self) -> None:
        """Discard what is stored and not assigned yet, and begin the ledger anew."""
        self._control().request(control.Flush())


def closed_error(name: str) -> ValueRefused:
    """What a reader of the producer `name` raises when it is to read after its close()."""
    return ValueRefused(f"this reader of {name!r} is closed: connect again")


def log_warnings(name: str, warnings: list[str]) -> None:
    """Log what a producer warns of, under its name."""
    for warning in warnings:
        log.warning("%s: %s", name, printable(warning))
