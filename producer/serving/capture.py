"""The owner of the descriptors.

Descriptors have no locks: one thread at a time may touch them, the one that holds the ownership. While the pump runs,
its thread owns them, for millions of packets at a time. Everybody else hands in a command; handing one in interrupts
the pump, which comes back to carry it out. While nothing runs, whoever hands a command in becomes the owner for as long
as that takes.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from mmap import mmap
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.ring.pump import Pump
from zbuf.producer.serving.access import Grant, Peer, user_name
from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.shared.control.settings import Settings
from zbuf.shared.control.statistics import (
    FILTER_SHOWN_LENGTH,
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)
from zbuf.shared.errors import Refused
from zbuf.shared.memory.pcapng import Interface, interface_description
from zbuf.shared.memory.segment import Segment

if TYPE_CHECKING:
    from zbuf.producer.ring.contract import NativeSource

T = TypeVar("T")

log = logging.getLogger("zbuf")

DEFAULT_LINGER_S = 5.0

_CLOSED_KEPT = 1024
_SHORTEST_TICK_S, _LONGEST_TICK_S = 0.005, 0.25


@dataclass(frozen=True)
class Limits:
    """How much clients may ask for."""

    descriptors: int = 64
    readers: int = 256
    connections: int = 512
    descriptors_per_user: int | None = None
    memory_per_user: int | None = None
    """Bytes of shared memory."""
    evict_after_s: float | None = None
    """How long a reader may hold up those that share its descriptor, before it is taken off; None for ever."""


class JustEnded(Refused):
    """A shared descriptor was closed between being found and being joined."""


@dataclass
class Attached:
    """A reader, as its producer knows it."""

    number: int
    peer: Peer
    ack_map: mmap
    doorbell: int
    """The producer's end of the socket that wakes it."""
    hang_up: Callable[[], None] = lambda: None
    """Closes its connection."""

    def release(self) -> None:
        """Close what its producer has of it."""
        self.ack_map.close()
        os.close(self.doorbell)


@dataclass
class Listener:
    """A descriptor with what belongs to it."""

    number: int
    join: str | None
    settings: Settings
    segment: Segment
    descriptor: Descriptor
    uid: int
    """The user that opened it."""
    grant: Grant
    """What its readers may see."""
    filters: LinkFilters
    guards: LinkFilters
    """The grant's, for each link type."""
    readers: dict[int, Attached] = field(default_factory=dict)
    stall: tuple[int, float] = (0, 0.0)
    """The assignment that all but some of them have given back, and since when it has been waited for."""

    def announce(self, interfaces: Sequence[Interface]) -> None:
        """Interfaces appeared, whose packets come from now on."""
        for interface in interfaces:
            self.descriptor.announce(
                interface_description(interface, self.settings.snaplen),
                self.filters.program(interface.linktype),
                self.guards.program(interface.linktype),
            )


class LiveCounts(Protocol):
    """What a capture asks of its live interfaces, if it has any."""

    def tick(self) -> None:
        """Now and then."""

    def statistics(self) -> list[InterfaceStatistics]:
        """What the kernel says of each."""


class Capture:
    """Descriptors, the pump that feeds them, and the right to touch them.

    Args:
        limits: how many descriptors and readers there may be.
        interfaces: those that packets come from, in the order of their numbers; announce() adds to them.
        lossless: packets wait for readers in place of being dropped.
    """

    def __init__(self, limits: Limits, interfaces: list[Interface], *, lossless: bool = False) -> None:
        self.limits = limits
        self.interfaces = interfaces
        self.live: LiveCounts | None = None
        self.evicted = 0
        self.refused = 0
        self.pump = Pump(lossless=lossless)
        self.stopping = False
        self._owner = threading.Lock()
        self._tick_due = False
        self._commands: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._listeners: dict[int, Listener] = {}
        self._closed: deque[DescriptorStatistics] = deque(maxlen=_CLOSED_KEPT)
        self._closed_sum = Ledger()
        self._readers_changed = threading.Condition()
        self._next_number = 1
        self._closing = False
        self._started_s = time.monotonic()

    # ---- ownership ------------------------------------------------------------------------------------------

    def submit(self, command: Callable[[], T]) -> "Future[T]":
        """Have the owner carry out `command`; from any thread. The future has its result, or its exception."""
        future: Future[T] = Future()
        self._commands.append((command, future))  # type: ignore[arg-type]
        self.pump.interrupt()
        self._serve_if_idle()
        return future

    def _serve_if_idle(self) -> None:
        """Carry the commands out here, unless there is an owner, who will see them before it is done."""
        while (self._commands or self._tick_due) and self._owner.acquire(blocking=False):
            try:
                self._serve()
            finally:
                self._owner.release()

    def _serve(self) -> None:
        if self._tick_due:
            self._tick_all()
        while self._commands:
            command, future = self._commands.popleft()
            try:
                result = command()
            except Exception as error:
                future.set_exception(error)
            except BaseException:  # Ctrl-C in the middle of somebody else's request: it is ours, not theirs
                future.set_exception(Refused("the producer was interrupted"))
                raise
            else:
                future.set_result(result)

    def stop(self) -> None:
        """Make run() and append() return soon; from any thread or a signal handler."""
        self.stopping = True
        self.pump.interrupt()

    def run(self, source: "NativeSource", appeared: Callable[[], Sequence[Interface]] = tuple) -> bool:
        """Pump a native source to its end; False where stop() came first.

        Args:
            source: what to pump.
            appeared: called where packets of new interfaces follow; returns those that are not announced yet.
        """
        ended = False
        while not ended and not self.stopping:
            with self._owner:
                self._serve()
                ended = self.pump.run(source)
                if self.pump.interfaces_appeared:
                    self.announce(appeared())
            self._serve_if_idle()
        if not ended:
            self._cancel()
        return ended

    def append(self, data: bytes, time_ns: int, wirelen: int | None, interface: int, direction: int) -> bool:
        """Feed one packet to all descriptors; False where stop() came before all had room for it."""
        with self._owner:
            done = self.pump.offer(data, time_ns, wirelen, interface, direction)
        while not done and not self.stopping:
            self._serve_if_idle()
            with self._owner:
                done = self.pump.resume()
        if not done:
            self._cancel()
        self._serve_if_idle()
        return done

    def _cancel(self) -> None:
        with self._owner:
            self.pump.cancel()
        self._serve_if_idle()

    # ---- time -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Let the read timeouts run; called by the control thread, now and then, and carried out by the owner."""
        self._tick_due = True
        self.pump.interrupt()
        self._serve_if_idle()

    def _tick_all(self) -> None:
        self._tick_due = False
        now_ns = time.monotonic_ns()
        for listener in list(self._listeners.values()):
            listener.descriptor.tick(now_ns)
            self._evict_slow(listener, now_ns / 1e9)
        if self.live is not None:
            self.live.tick()

    @property
    def tick_s(self) -> float:
        """How often to tick, in seconds: half of the shortest read timeout."""
        timeouts = [one.settings.timeout_ms for one in list(self._listeners.values()) if one.settings.timeout_ms]
        return min(max(min(timeouts, default=1000) / 2000, _SHORTEST_TICK_S), _LONGEST_TICK_S)

    def _evict_slow(self, listener: Listener, now_s: float) -> None:
        """Take off the readers that have held up the others for too long."""
        if self.limits.evict_after_s is None or len(listener.readers) < 2:
            return
        sequence, slow = listener.descriptor.stalled_by()
        if not slow or listener.stall[0] != sequence or not listener.stall[1]:
            listener.stall = (sequence, now_s if slow else 0.0)
        elif now_s - listener.stall[1] >= self.limits.evict_after_s:
            for number in slow:
                self._evict(listener, listener.readers[number])

    def _evict(self, listener: Listener, reader: Attached) -> None:
        log.warning(
            "evicted reader %d of descriptor %s, %s: it held up %d others for %g s",
            reader.number,
            listener.join,
            reader.peer,
            len(listener.readers) - 1,
            self.limits.evict_after_s,
        )
        self.evicted += 1
        self.remove_reader(listener, reader.number)  # its doorbell hangs up: it finds the producer alive, and knows
        reader.hang_up()

    # ---- commands: the owner alone calls what follows -------------------------------------------------------------

    def new_number(self) -> int:
        """A number for a descriptor or a reader that none had before."""
        self._next_number += 1
        return self._next_number - 1

    def find_group(self, join: str) -> Listener | None:
        """The descriptor that is shared under this name."""
        return next((one for one in self._listeners.values() if one.join == join), None)

    def announce(self, interfaces: Sequence[Interface]) -> None:
        """Interfaces appeared: every descriptor tells its readers, before it takes packets of them."""
        self.interfaces.extend(interfaces)
        for listener in self._listeners.values():
            listener.announce(interfaces)

    def check_room(self, uid: int, buffer_bytes: int) -> None:
        """Raise Refused where there, or for that user, are as many descriptors, or as much memory, as may be."""
        limits = self.limits
        if len(self._listeners) >= limits.descriptors:
            raise Refused(f"all {limits.descriptors} descriptors of this producer are in use")
        theirs = [one.segment.layout.buffer_bytes for one in self._listeners.values() if one.uid == uid]
        if limits.descriptors_per_user is not None and len(theirs) >= limits.descriptors_per_user:
            raise Refused(f"all {limits.descriptors_per_user} descriptors that a user may open are in use: join one")
        wanted = 2 * (sum(theirs) + buffer_bytes)
        if limits.memory_per_user is not None and wanted > limits.memory_per_user:
            raise Refused(
                f"this descriptor's buffers make it {wanted} bytes of shared memory for user {user_name(uid)}, "
                f"who may have {limits.memory_per_user}: use smaller buffers, or join a descriptor"
            )

    def add_reader(self, listener: Listener, reader: Attached, *, is_new: bool) -> tuple[int, int]:
        """Let a reader in, with its descriptor where that is new.

        Returns:
            The number of the first buffer that it will get, and how many interfaces are announced before that.

        Raises:
            Refused: the producer is about to end, or serves as many as it may.
            SegmentError: the descriptor can't describe all interfaces.
        """
        if self._closing:
            raise Refused("this producer is ending")
        if not is_new and listener.number not in self._listeners:
            raise JustEnded("the descriptor has just ended: connect again")
        if self._reader_count() >= self.limits.readers:
            raise Refused(f"all {self.limits.readers} readers that this producer serves are there")
        if is_new:
            self.check_room(listener.uid, listener.segment.layout.buffer_bytes)
            listener.announce(self.interfaces[listener.descriptor.interfaces_to_come() :])
        first = listener.descriptor.add_reader(reader.number, reader.ack_map, reader.doorbell)
        listener.readers[reader.number] = reader
        if is_new:
            self._listeners[listener.number] = listener
            self.pump.attach(listener.descriptor)
        self._notify()
        return first

    def remove_reader(self, listener: Listener, number: int) -> None:
        """A reader is gone: its buffers are free, and its descriptor is closed if it was the last."""
        reader = listener.readers.pop(number, None)
        if reader is None:
            return
        listener.descriptor.remove_reader(number)
        if not listener.readers:
            listener.descriptor.abandon()
            self.close_listener(listener)
        reader.release()  # last, since its doorbell hangs up: who hears that finds the segment closed
        self._notify()

    def close_listener(self, listener: Listener) -> None:
        """End a descriptor: mark it closed, wake its readers, remove the name of its memory."""
        if self._listeners.pop(listener.number, None) is None:
            return
        self.pump.detach(listener.descriptor)
        final = _statistics_of(listener, is_open=False)
        listener.descriptor.close()
        for reader in listener.readers.values():
            reader.release()
        listener.readers.clear()
        listener.segment.discard()
        self._closed.append(final)
        self._closed_sum = _add(self._closed_sum, final)

    def close(self) -> None:
        """Close every descriptor, and let nobody in any more."""
        self._closing = True
        for listener in list(self._listeners.values()):
            self.close_listener(listener)

    def finish(self) -> None:
        """Assign the tail of every descriptor, and tell its readers: no more packets will come, and no more readers."""
        self._closing = True
        for listener in self._listeners.values():
            listener.descriptor.finish()

    def rotate(self) -> None:
        """Assign what is stored in every descriptor, as far as a buffer is free for what comes next."""
        for listener in self._listeners.values():
            listener.descriptor.rotate()

    def buffered(self) -> int:
        """Packets that the readers have yet to acknowledge."""
        return sum(listener.descriptor.ledger()["buffered"] for listener in self._listeners.values())

    def statistics(self, producer: str, epoch: int) -> Statistics:
        """Everything there is to know, as of one instant."""
        return Statistics(
            producer=producer,
            pid=os.getpid(),
            epoch=epoch,
            uptime_s=time.monotonic() - self._started_s,
            interfaces=[interface.name for interface in self.interfaces],
            linktypes=[interface.linktype for interface in self.interfaces],
            offered=self.pump.offered,
            waits=self.pump.waits,
            descriptors=[_statistics_of(listener, is_open=True) for listener in self._listeners.values()],
            closed=self._closed_sum,
            live=self.live.statistics() if self.live is not None else [],
            evicted=self.evicted,
            refused=self.refused,
        )

    def forget(self) -> None:
        """In a forked child: close what belongs to the parent, so that its end is seen as its end."""
        for listener in self._listeners.values():
            listener.segment.unlock()
            for reader in listener.readers.values():
                os.close(reader.doorbell)

    def closed_descriptors(self) -> list[DescriptorStatistics]:
        """The last thousand descriptors that were closed, with their final ledgers."""
        return list(self._closed)

    # ---- waiting for readers ------------------------------------------------------------------------------------

    def _notify(self) -> None:
        with self._readers_changed:
            self._readers_changed.notify_all()

    def wait_readers(self, count: int, timeout_s: float | None) -> bool:
        """Wait until `count` readers are connected; False when the time is over, or on stop()."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._readers_changed:
            while self._reader_count() < count and not self.stopping:
                left = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
                if left <= 0:
                    return False
                self._readers_changed.wait(left)  # short, so that stop() in a signal handler is seen
        return not self.stopping

    def _reader_count(self) -> int:
        return sum(len(listener.readers) for listener in list(self._listeners.values()))

    def drain(self, linger_s: float | None) -> bool:
        """Wait until the readers have acknowledged everything; False when `linger_s` is over.

        None is for as long as it takes, but DEFAULT_LINGER_S once somebody says stop().
        """
        started, pause_s = time.monotonic(), 0.0001
        while self.submit(self.buffered).result():
            if linger_s is None and self.stopping:
                started, linger_s = time.monotonic(), DEFAULT_LINGER_S
            if linger_s is not None and time.monotonic() - started >= linger_s:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.005)
        return True


def _shown(settings: Settings) -> Settings:
    """Settings as statistics give them: those of all descriptors have to fit into one datagram."""
    if len(settings.filter) <= FILTER_SHOWN_LENGTH:
        return settings
    return msgspec.structs.replace(settings, filter=settings.filter[: FILTER_SHOWN_LENGTH - 3] + "...")


def _statistics_of(listener: Listener, *, is_open: bool) -> DescriptorStatistics:
    return DescriptorStatistics(
        **listener.descriptor.ledger(),
        descriptor=listener.number,
        join=listener.join,
        settings=_shown(listener.settings),
        stored_bytes=sum(listener.descriptor.slots()["lengths"]),
        bells=listener.descriptor.bells,
        open=is_open,
        readers=list(_readers_of(listener)),
    )


def _readers_of(listener: Listener) -> Iterator[ReaderStatistics]:
    for number, reader in listener.readers.items():
        delivered, holding = listener.descriptor.reader_counts(number)
        stalls, stalled = listener.descriptor.reader_stalls(number)
        yield ReaderStatistics(
            reader=number,
            pid=reader.peer.pid,
            delivered=delivered,
            holding=holding,
            user=reader.peer.uid,
            stalls=stalls,
            stalled=stalled,
        )


def _add(total: Ledger, one: Ledger) -> Ledger:
    return Ledger(*(getattr(total, name) + getattr(one, name) for name in Ledger.__struct_fields__))


def add_ledgers(ledgers: Iterator[Ledger]) -> Ledger:
    """The sums over several descriptors."""
    total = Ledger()
    for one in ledgers:
        total = _add(total, one)
    return total


def ledger_dict(ledger: Ledger) -> dict[str, int]:
    """The counts by name."""
    return {name: getattr(ledger, name) for name in Ledger.__struct_fields__}
