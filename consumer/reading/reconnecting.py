"""A reader that outlives its producer: it comes back when a producer of that name is there again."""

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from zbuf.consumer.reading.buffer import Buffer, Packet
from zbuf.consumer.reading.connection import Connection, until_next_look
from zbuf.consumer.reading.options import Options
from zbuf.consumer.reading.reader import Reader, open_reader
from zbuf.consumer.reading.surface import Asking, EndReason, Facts, closed_error
from zbuf.shared import control
from zbuf.shared.arguments import accepted
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, ZbufError
from zbuf.shared.names import linktypes_of

log = logging.getLogger("zbuf")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True)
class Return:
    """A time that a reader came back."""

    ended_as: EndReason
    """How the producer had ended."""
    away_s: float
    """How long there was none, or none that let this reader in."""
    unaccounted: int
    """Packets that the new producer had offered before this reader was let in: nobody can say which of them the filter
    would have passed. What was on the wire while no producer was there, nobody has counted."""


class ReconnectingReader(Asking):
    """The packets of one capture after the other, all of producers of one name; made by connect(..., reconnect=True).

    Everything that a producer had appended is read before the next one is looked for: after 50 to 100 ms, then after
    twice that, and so on, at last every 2.5 to 5 s. It does as Reader does, with these differences: it ends where
    close() is called, or the producer takes it off; `returns` tells when it came back, and what it can't account for.
    So does the log, as a warning of the logger "zbuf", which also tells, once each, what keeps it away. The interfaces
    and the descriptor may be others then, and so is fileno().

    Args:
        name: the producer's.
        options: those of connect().

    Raises:
        ZbufError: as from connect(), if there is no producer to begin with.
    """

    def __init__(self, name: str, options: Options) -> None:
        self._name = name
        self.returns: list[Return] = []
        """One for each time that it came back."""
        self._options = options
        self._reader = open_reader(name, options)
        self._left_s: float | None = None
        self._next_look_s = 0.0
        self._pauses = pauses()
        self._told: set[str] = set()
        self._interrupted = False
        self._closed = False

    # ---- packets ------------------------------------------------------------------------------------------------

    def next_buffer(self, timeout: float | None = None) -> Buffer | None:
        """Acknowledge the last buffer and wait for the next, of this producer or the one after it.

        Args:
            timeout: how long to wait, in seconds; None for as long as it takes, 0 to look once.

        Returns:
            A Buffer; None when the time is over or interrupt() was called, or at the end, which `finished` tells.

        Raises:
            BufferError, CorruptBuffer: as from Reader.next_buffer().
            ValueRefused: the reader is closed.
            ZbufError: the producer came back with packets of another link type.
        """
        if self._closed:
            raise closed_error(self._name)
        deadline = None if timeout is None else time.monotonic() + accepted("timeout", timeout, float)
        self._packets = iter(())
        while True:
            if self._left_s is None:
                buffer = self._reader.next_buffer(_left(deadline))
                if buffer is not None or not self._reader.finished or self.finished:
                    self._interrupted = False
                    return buffer
                self._left_s = time.monotonic()
                self._pauses, self._told = pauses(), set()
            if not self._wait_for_return(deadline):
                return None

    def buffers(self) -> Iterator[Buffer]:
        """Iterate over the buffers, each valid until the next is taken."""
        while (buffer := self.next_buffer()) is not None:
            yield buffer

    def __iter__(self) -> Iterator[Packet]:
        """Iterate over the packets, zero-copy: see Reader."""
        while self._await_packet(None):
            packets = iter(self._reader)
            while self._reader._packets_left:
                yield next(packets)

    def _await_packet(self, timeout: float | None) -> bool:
        """Whether an iteration has a packet to give: see Reader."""
        while not self._reader._packets_left:
            if self.next_buffer(timeout) is None:
                return False
            self._reader._rewind()
        return True

    def interrupt(self) -> None:
        """Have a wait for a buffer end without one: that which goes on, or the next; see Reader.interrupt()."""
        self._interrupted = True
        self._reader.interrupt()

    # ---- coming back --------------------------------------------------------------------------------------------

    def _wait_for_return(self, deadline: float | None) -> bool:
        """Whether the producer is back before the deadline, or an interrupt()."""
        while not self._try():
            left = _left(deadline)
            if self._interrupted or self._closed or left == 0:
                self._interrupted = False
                return False
            time.sleep(until_next_look(left))
        if self._interrupted:  # while it connected: what was told to stop is the reader before
            self._reader.interrupt()
        return True

    def _try(self) -> bool:
        """Look for the producer, not more often than pauses() say."""
        if time.monotonic() < self._next_look_s:
            return False
        try:
            reader = open_reader(self._name, self._options)
        except (ProducerNotFound, ControlError) as error:  # not there, ending, or not ready yet
            self._next_look_s = time.monotonic() + next(self._pauses)
            self._note_trouble(error)
            return False
        self._check_same(reader)
        self._note_return(reader)
        return True

    def _note_trouble(self, error: ZbufError) -> None:
        """Log what keeps it away, each cause once."""
        if str(error) not in self._told:
            self._told.add(str(error))
            what = "refuses this reader, which" if isinstance(error, Refused) else "is away; this reader"
            log.warning("%s: %s goes on trying: %s", self.name, what, error)

    def _check_same(self, reader: Reader) -> None:
        if self._closed:  # by another thread
            reader.close()
        elif set(reader.linktypes) != set(self._reader.linktypes):
            reader.close()
            self.close()
            raise ZbufError(
                f"producer {self.name!r} came back with link type {linktypes_of(reader.linktypes)}, it had "
                f"{linktypes_of(self._reader.linktypes)}: "
                "connect anew"
            )

    def _note_return(self, reader: Reader) -> None:
        last, self._reader = self._reader, reader
        away_s = time.monotonic() - (self._left_s or 0)
        self._left_s = None
        back = Return(last.end_reason or "closed", away_s, reader.offered_before)
        self.returns.append(back)
        last.close()
        log.warning(
            "%s: %s, and is back after %.1f s: %d packets before this reader came are not accounted for",
            self.name,
            "its producer died" if back.ended_as == "producer died" else "its producer ended",
            away_s,
            back.unaccounted,
        )

    @property
    def unaccounted(self) -> int:
        """Packets that producers had offered before this reader came back to them, all in all."""
        return sum(back.unaccounted for back in self.returns)

    @property
    def is_away(self) -> bool:
        """Whether it waits for its producer to return."""
        return self._left_s is not None and not self._closed

    # ---- what it says of itself ---------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        return self._reader._facts()

    def _control(self) -> Connection:
        return self._reader._control()

    @property
    def finished(self) -> bool:
        """Whether no more buffers will come: it left, or was taken off."""
        return self._closed or (self._reader.finished and self._reader.end_reason in ("evicted", "left"))

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers: "evicted" or "left"; None while there may be."""
        return self._reader.end_reason if self.finished else None

    @property
    def holds_views(self) -> bool:
        """Whether any view (memoryview, NumPy array) of a buffer is alive."""
        return self._reader.holds_views

    def fileno(self) -> int:
        """A file descriptor for select() and the like, as that of Reader; -1 while there is no producer."""
        return -1 if self.is_away else self._reader.fileno()

    # ---- requests -----------------------------------------------------------------------------------------------

    def ledger(self) -> control.Ledger:
        """The descriptor's ledger, of this producer's time; see Reader.ledger()."""
        return self._reader.ledger()

    def set_filter(self, expression: str | None, *, flush: bool = True) -> None:
        """Change the filter for packets to come, those of later producers too; see Reader.set_filter()."""
        super().set_filter(expression, flush=flush)
        self._options = msgspec.structs.replace(self._options, filter=expression)

    def close(self) -> None:
        """Leave; see Reader.close()."""
        self._closed = True
        self._reader.close()


def pauses() -> Iterator[float]:
    """How long to wait before each next look for a producer, in seconds, without end: see ReconnectingReader.

    Chance has a part in it, so that not all readers of a producer come back in the same moment.
    """
    longest_s = _FIRST_PAUSE_S
    while True:
        yield random.uniform(longest_s / 2, longest_s)  # noqa: S311  (nobody gains from guessing it)
        longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
