"""The loop that takes a reader's packets into an output, and the signals and limits that end it."""

import contextlib
import signal
import sys
import time
from typing import Protocol

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.trailer import Account, Accountant
from zbuf.shared.cli.process import on_end
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.errors import ControlError

_BUFFERS = 2
"""A descriptor has two buffers. They hold all packets of one moment; later ones are not waited for."""


class Output(Protocol):
    """Where packets go."""

    @property
    def packets(self) -> int:
        """How many packets it has taken."""

    @property
    def finished(self) -> bool:
        """Whether it takes no more."""

    @property
    def deadline(self) -> float | None:
        """When tick() has something to do, in seconds of time.monotonic()."""

    def take(self, blocks: Blocks, last: int) -> int:
        """Take the packets of a buffer before number `last`; returns how many were taken."""

    def tick(self) -> None:
        """Do what is due."""

    def finish(self, ledger: Ledger) -> None:
        """Write what belongs at the end of a file."""

    def close(self) -> None:
        """Close files, finished or not."""


class Dump:
    """Takes a reader's packets until the stream ends, there are enough, the time is over, or a signal comes.

    The constructor installs signal handlers, which do no more than end a wait, so that no packet is lost between two
    steps. The first SIGINT, SIGTERM or SIGHUP (unless nohup(1) had that ignored) ends the dump in good order, and the
    second one ends it at once. SIGUSR1 prints the counts. SIGUSR2 writes packets that are not assigned yet.

    Args:
        reader: the reader.
        packets: end after so many packets; None for no end.
        seconds: end after this time; None for no end.
    """

    def __init__(self, reader: Reader, packets: int | None = None, seconds: float | None = None) -> None:
        self._reader = reader
        self._left = sys.maxsize if packets is None else packets
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._ending = False
        self._came: set[int] = set()
        on_end(self._end, signal.SIGHUP)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note)
        self._accountant = Accountant(reader)

    def account(self) -> Account:
        """What has become of the packets until now."""
        return self._accountant.account()

    def run(self, output: Output) -> Account:
        """Dump to the output, finish it, and return the account as of the end."""
        while not self._is_over(output):
            self._take_next(output, self._patience(output))
            self._heed(output)
            if output.deadline is not None and time.monotonic() >= output.deadline:
                self._take_stored(output)
                output.tick()
        self._take_stored(output)
        account = self.account()
        output.finish(account.ledger)
        return account

    # ---- packets ------------------------------------------------------------------------------------------------

    def _take_next(self, output: Output, timeout: float | None) -> bool:
        """Wait for a buffer and take it; returns whether one came."""
        buffer = self._reader.next_buffer(timeout)
        if buffer is None:
            return False
        blocks = Blocks(buffer)
        taken = output.take(blocks, min(blocks.packets, self._left))
        self._left -= taken
        return True

    def _take_stored(self, output: Output) -> None:
        """Take what is there now, in full buffers and in one that is not full."""
        for _ in range(_BUFFERS):
            if not self._left or output.finished or self._reader.finished:
                return
            if not self._take_next(output, 0):  # this has given back the buffer before
                with contextlib.suppress(ControlError):  # the producer is about to end, and then assigns everything
                    self._reader.rotate()
                self._take_next(output, 0)
                return

    def _is_over(self, output: Output) -> bool:
        return (
            not self._left
            or output.finished
            or self._reader.finished
            or self._ending
            or (self._ends is not None and time.monotonic() >= self._ends)
        )

    def _patience(self, output: Output) -> float | None:
        deadlines = [deadline for deadline in (self._ends, output.deadline) if deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    # ---- signals ------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._ending = True
        self._reader.interrupt()

    def _note(self, number: int, _frame: object) -> None:
        self._came.add(number)
        self._reader.interrupt()

    def _heed(self, output: Output) -> None:
        # In one step: a later signal waits for the next call, so that no SIGUSR1 overtakes a SIGUSR2.
        came, self._came = self._came, set()
        if signal.SIGUSR2 in came:
            self._take_stored(output)
        if signal.SIGUSR1 in came:
            sys.stderr.write(self.account().counts(output.packets))
