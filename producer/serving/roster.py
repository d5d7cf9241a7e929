"""The descriptors of a running capture, and their readers: who joins, who is evicted, and what all of them counted.

Nothing here locks: only the owner of the descriptors may call what touches them (see zbuf.producer.serving.owner).
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from zbuf.producer.ring.pump import Pump
from zbuf.producer.serving.access import Grant
from zbuf.producer.serving.counts import add_ledgers, statistics_of
from zbuf.producer.serving.filter_shares import FilterShares
from zbuf.producer.serving.limits import Limits
from zbuf.producer.serving.listener import Attached, Listener
from zbuf.producer.serving.refusals import Refusals
from zbuf.producer.serving.seen import Viewer
from zbuf.producer.serving.shares import Shares
from zbuf.shared.control.statistics import (
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)
from zbuf.shared.errors import Refused
from zbuf.shared.memory.pcapng import Interface

log = logging.getLogger("zbuf")

_CLOSED_KEPT = 1024
_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.0005, 0.25


class JustEnded(Refused):
    """A shared descriptor was closed after it was found and before it was joined."""

    def __init__(self) -> None:
        super().__init__("the descriptor has just ended: connect again")


class JustOpened(Refused):
    """A shared descriptor was opened by somebody else after it was looked for and before it was there."""

    def __init__(self) -> None:
        super().__init__("the descriptor has just been opened: join it")


class LiveCounts(Protocol):
    """What is asked of the live interfaces that a capture has, if it has any."""

    def tick(self) -> None:
        """Called now and then."""

    def statistics(self) -> list[InterfaceStatistics]:
        """What the kernel counted, for each of them."""


class Roster:
    """The descriptors that a pump feeds, with their readers.

    Args:
        pump: feeds each descriptor for as long as that is listed here.
        limits: how much clients may ask for.
        interfaces: those that packets come from, in the order of their numbers; announce() adds to them.
    """

    def __init__(self, pump: Pump, limits: Limits, interfaces: list[Interface]) -> None:
        self.shares = Shares(limits)
        """What users have booked; its limits may be replaced at any time."""
        self.refusals = Refusals()
        self.interfaces = interfaces
        self.live: LiveCounts | None = None
        self.refused = 0
        """Connections that broke the rules, or came when there were too many."""
        self.readers_changed = threading.Condition()
        """Notified when a reader has come or gone."""
        self._evicted = 0
        self._pump = pump
        self._listeners: dict[int, Listener] = {}
        self._filter_shares = FilterShares(pump)
        self._closed: deque[DescriptorStatistics] = deque(maxlen=_CLOSED_KEPT)
        self._closed_sums: dict[Grant, Ledger] = {}  # of descriptors with the same grant
        self._next_number = 1
        self.closing = False
        """Whether nobody is let in any more."""
        self._hurried = False
        self._started_s = time.monotonic()

    # ---- from any thread --------------------------------------------------------------------------------------------

    @property
    def tick_s(self) -> float:
        """How often tick() is due, in seconds: half of the shortest read timeout.

        More often where packets of immediate mode wait for it, since a reader keeps views: see Descriptor.tick().
        """
        if self._hurried:
            return _SHORTEST_TICK_S
        timeouts = [one.settings.timeout_ms for one in list(self._listeners.values()) if one.settings.timeout_ms]
        return min(max(min(timeouts, default=1000) / 2000, _SHORTEST_TICK_S), _LONGEST_TICK_S)

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return sum(len(listener.readers) for listener in list(self._listeners.values()))

    def new_number(self) -> int:
        """A number for a descriptor or a reader that none had before."""
        self._next_number += 1
        return self._next_number - 1

    # ---- who is there -----------------------------------------------------------------------------------------------

    def find_group(self, join: str) -> Listener | None:
        """The descriptor that is shared under this name."""
        return next((one for one in self._listeners.values() if one.join == join), None)

    def check_filter(self, uid: int, instructions: int, replaced: Listener | None = None) -> None:
        """Raise Refused if a user may not run a filter of so many instructions, in place of that of `replaced`."""
        theirs = [one for one in self._listeners.values() if one.uid == uid and one is not replaced]
        self.shares.limits.check_filters(uid, sum(one.filters.instructions for one in theirs), instructions)

    def add_reader(self, listener: Listener, reader: Attached, *, is_new: bool) -> tuple[int, int]:
        """Let a reader in, together with its descriptor if that is new.

        Returns:
            The number of the first buffer that the reader will get, and how many interfaces are announced before it.

        Raises:
            Refused: the producer is about to end.
            JustEnded: the descriptor was closed meanwhile.
            JustOpened: there is one of that name meanwhile.
            SegmentError: the descriptor's prologue has no room for all interfaces.
        """
        if self.closing:
            raise Refused("this producer is ending")
        if not is_new and listener.number not in self._listeners:
            raise JustEnded
        if is_new:
            if listener.join is not None and self.find_group(listener.join) is not None:
                raise JustOpened
            self.check_filter(listener.uid, listener.filters.instructions)
            known = listener.descriptor.interfaces_to_come()
            listener.announce(listener.grant.shown(self.interfaces[known:], known))
        first = listener.descriptor.add_reader(reader.number, reader.ack_map, reader.doorbell)
        listener.readers[reader.number] = reader
        if is_new:
            self._listeners[listener.number] = listener
            self._filter_shares.open(listener)
            self._pump.attach(listener.descriptor)
        self._notify()
        return first

    def remove_reader(self, listener: Listener, number: int) -> None:
        """A reader is gone: free its buffers, and close its descriptor if it was the last."""
        reader = listener.readers.pop(number, None)
        if reader is None:
            return
        listener.descriptor.remove_reader(number)
        if not listener.readers:
            listener.descriptor.abandon()
            self._close_listener(listener)
        reader.release()  # last, since this hangs up its doorbell: whoever hears that finds the segment closed
        self._notify()

    def _notify(self) -> None:
        with self.readers_changed:
            self.readers_changed.notify_all()

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let the read timeouts run, and evict readers that have held up others for too long."""
        now_ns = time.monotonic_ns()
        for listener in list(self._listeners.values()):
            listener.descriptor.tick(now_ns)
            self._evict_slow(listener, now_ns / 1e9)
        immediate = [one.descriptor for one in self._listeners.values() if one.settings.immediate]
        self._hurried = any(descriptor.held_by_views for descriptor in immediate)
        self._filter_shares.tick()
        if self.live is not None:
            self.live.tick()

    def _evict_slow(self, listener: Listener, now_s: float) -> None:
        if self.shares.limits.evict_after_s is None or len(listener.readers) < 2:
            return
        sequence, slow = listener.descriptor.stalled_by()
        if not slow or listener.stall[0] != sequence or not listener.stall[1]:
            listener.stall = (sequence, now_s if slow else 0.0)
        elif now_s - listener.stall[1] >= self.shares.limits.evict_after_s:
            for number in slow:
                self._evict(listener, listener.readers[number])

    def _evict(self, listener: Listener, reader: Attached) -> None:
        log.warning(
            "evicted reader %d of descriptor %s, %s: it held up %d others for %g s",
            reader.number,
            listener.join,
            reader.peer,
            len(listener.readers) - 1,
            self.shares.limits.evict_after_s,
        )
        self._evicted += 1
        self.remove_reader(listener, reader.number)  # hangs up its doorbell: it finds the producer alive, and knows
        reader.hang_up()

    # ---- all descriptors --------------------------------------------------------------------------------------------

    def announce(self, interfaces: Sequence[Interface]) -> None:
        """Interfaces appeared: every descriptor tells its readers, before it takes packets of them."""
        first = len(self.interfaces)
        self.interfaces.extend(interfaces)
        for listener in self._listeners.values():
            listener.announce(listener.grant.shown(interfaces, first))

    def rotate(self) -> None:
        """Assign the store of every descriptor that has a buffer free for the packets that come next."""
        for listener in self._listeners.values():
            listener.descriptor.rotate()

    def finish(self) -> None:
        """Assign the tail of every descriptor, and tell its readers: no more packets will come. Nobody is let in."""
        self.closing = True
        for listener in self._listeners.values():
            listener.descriptor.finish()

    def buffered(self) -> int:
        """How many packets the readers have yet to acknowledge."""
        return sum(listener.descriptor.ledger()["buffered"] for listener in self._listeners.values())

    def all_readers(self) -> list[ReaderStatistics]:
        """The readers of all descriptors, and what each of them is holding."""
        return [one for listener in self._listeners.values() for one in statistics_of(listener, is_open=True).readers]

    def close(self) -> None:
        """Close every descriptor, and let nobody in any more."""
        self.closing = True
        for listener in list(self._listeners.values()):
            self._close_listener(listener)

    def _close_listener(self, listener: Listener) -> None:
        """Close a descriptor: wake its readers, and remove the name of its memory."""
        if self._listeners.pop(listener.number, None) is None:
            return
        self._filter_shares.close(listener)
        self._pump.detach(listener.descriptor)
        final = statistics_of(listener, is_open=False)
        listener.descriptor.close()
        for reader in listener.readers.values():
            reader.release()
        listener.readers.clear()
        listener.segment.discard()
        listener.release()
        self._closed.append(final)
        self._closed_sums[listener.grant] = add_ledgers([self._closed_sums.get(listener.grant, Ledger()), final])

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent, so that its readers see when the parent ends."""
        for listener in self._listeners.values():
            listener.segment.unlock()
            for reader in listener.readers.values():
                os.close(reader.doorbell)

    # ---- statistics -------------------------------------------------------------------------------------------------

    def statistics(self, producer: str, epoch: int, viewer: Viewer | None = None) -> Statistics:
        """Everything that was counted, as of one instant; without what a viewer may not see."""
        everything = self._everything(producer, epoch)
        if viewer is None or viewer.sees_all:
            return everything
        return viewer.seen(everything, self._listeners, self._closed_sums.get(viewer.grant, Ledger()))

    def _everything(self, producer: str, epoch: int) -> Statistics:
        return Statistics(
            producer=producer,
            pid=os.getpid(),
            epoch=epoch,
            uptime_s=time.monotonic() - self._started_s,
            interfaces=[interface.name for interface in self.interfaces],
            linktypes=[interface.linktype for interface in self.interfaces],
            offered=self._pump.offered,
            waits=self._pump.waits,
            descriptors=[statistics_of(listener, is_open=True) for listener in self._listeners.values()],
            closed=add_ledgers(self._closed_sums.values()),
            live=self.live.statistics() if self.live is not None else [],
            evicted=self._evicted,
            refused=self.refused,
        )

    def closed_descriptors(self) -> list[DescriptorStatistics]:
        """The last thousand descriptors that were closed, with their final ledgers."""
        return list(self._closed)
