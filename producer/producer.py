"""A producer, from when it takes its name to the last acknowledgement."""

import contextlib
import logging
import os
import secrets
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from zbuf import __version__
from zbuf.producer.ring.contract import NativeSource
from zbuf.producer.ring.packets import direction_number
from zbuf.producer.ring.pump import Pump
from zbuf.producer.serving import waiting
from zbuf.producer.serving.access import Access, Rule
from zbuf.producer.serving.limits import Limits
from zbuf.producer.serving.owner import Owner
from zbuf.producer.serving.roster import Roster
from zbuf.producer.serving.server import ControlServer
from zbuf.producer.serving.session import Context
from zbuf.producer.serving.setup import Identity
from zbuf.producer.serving.ticks import Ticks
from zbuf.producer.sources.pace import Pace, Paced
from zbuf.producer.sources.python import (
    LINKTYPE_ETHERNET,
    RawPacket,
    check_data,
    check_time,
    check_wirelen,
    linktype_of,
)
from zbuf.producer.sources.source import Attended, Pass, Recorded, passes_of
from zbuf.shared.arguments import accepted, checked
from zbuf.shared.closing import Closing
from zbuf.shared.control.rundir import run_directory
from zbuf.shared.control.rundir_place import ProducerDirectory, socket_path
from zbuf.shared.control.statistics import Statistics
from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.layout import DEFAULT_BUFFER_BYTES, MAX_CAPLEN
from zbuf.shared.memory.leftovers import leftovers
from zbuf.shared.memory.pcapng import Interface
from zbuf.shared.memory.salvage import salvage_all
from zbuf.shared.memory.sizes import buffer_bytes
from zbuf.shared.names import encodable

log = logging.getLogger("zbuf")

_LINKTYPE_MAX = 0xFFFF


class Producer(Closing):
    """Publishes packets to any number of reading processes, under a name.

    It has the name, and readers can connect, from when this object is made until close(). It is a context manager.
    append() and publish() give it packets, from one thread at a time.

    Args:
        name: what readers connect to: letters, digits and any of ``_ . @ : + -``.
        linktype: LINKTYPE_ value of the packets of interfaces that are given by name; Ethernet by default.
        interfaces: those that packets come from, by name, or as an Interface each, with a link type of its own; by
            default one, named like the producer.
        lossless: wait for readers instead of dropping packets.
        buffer_size: bytes of each of a reader's two buffers, if the reader does not say, up to 1 GiB; "8M" or "512k"
            are sizes, too. It is rounded up to whole pages.
        run_dir: where the producer's own directory is made; see zbuf.shared.control.rundir.run_directory().
        linger_s: how long close() waits for the readers to acknowledge what is left; None for as long as it takes.
        limits: how much readers may ask for.
        allow: who may read what; by default, whoever can open the control socket may read everything.
        socket_mode: the permissions of the control socket.
        gid: the group of the control socket, and of its directory; by default the process's.
        snaplen: bytes that the source keeps of each packet: no reader gets more.
        salvage_dir: where to write the packets that a killed producer of this name left unread, before its segments
            are removed.
        place: the producer's own directory, where it is made already: then its name, run directory, mode and group
            are those of the producer. The producer releases it.

    Raises:
        ValueRefused: the name can't be used, or a rule names a user, group or interface that does not exist.
        RunDirectoryError: the run directory can't be made or written.
        ProducerExists: a producer of that name runs.
        TypeError: an argument is of the wrong type; the message names it.
    """

    @checked
    def __init__(
        self,
        name: str,
        *,
        linktype: int = LINKTYPE_ETHERNET,
        interfaces: Sequence[str | Interface] | None = None,
        lossless: bool = False,
        buffer_size: int | str = DEFAULT_BUFFER_BYTES,
        run_dir: str | os.PathLike[str] | None = None,
        linger_s: float | None = waiting.DEFAULT_LINGER_S,
        limits: Limits = Limits(),  # noqa: B008  (it is frozen)
        allow: Sequence[Rule] = (),
        socket_mode: int = 0o600,
        gid: int | None = None,
        snaplen: int = MAX_CAPLEN,
        salvage_dir: str | os.PathLike[str] | None = None,
        place: ProducerDirectory | None = None,
    ) -> None:
        size_bytes = buffer_bytes(buffer_size)
        directory = place.run_dir if place is not None else run_directory(run_dir)
        socket_path(directory, name)  # raises before anything is made
        described = [_described(one, linktype) for one in (interfaces or [name])]
        self.name = name
        self.run_dir = directory
        self.linger_s = linger_s
        """How long close() waits for the readers, in seconds; None for as long as it takes."""
        self._identity = Identity(name, secrets.randbits(63), described, f"zbuf {__version__}", snaplen)
        access = self._access(allow)
        pump = Pump(lossless=lossless)
        self._roster = Roster(pump, limits, described)
        self._owner = Owner(pump, self._roster.tick)
        if (shortage := self._roster.shares.shortage()) is not None:
            log.info("%s: %s", name, shortage)
        self._pid = os.getpid()
        self._closed = False
        self._place = place or ProducerDirectory(directory, name, socket_mode=socket_mode, gid=gid)
        try:
            self._clean_up_after_the_dead(salvage_dir)
            context = Context(self._identity, self._owner, self._roster, size_bytes, access)
            self._control = ControlServer(self._place.socket, context, self._place.socket_mode, self._place.gid)
            self._ticks = Ticks(self._owner, self._roster)
        except BaseException:
            self._place.release()
            raise
        _producers.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.offered} packets, {self._roster.readers} readers"
        return f"<zbuf producer {self.name!r}: {state}>"

    # ---- packets ------------------------------------------------------------------------------------------------

    def append(
        self,
        data: Any,
        *,
        time_ns: int | None = None,
        wirelen: int | None = None,
        interface: int = 0,
        direction: str = "inout",
    ) -> bool:
        """Publish one packet.

        Args:
            data: the captured bytes, any bytes-like object; they are copied.
            time_ns: when it was captured, in nanoseconds since 1970, an int; by default, now.
            wirelen: its length on the wire in bytes, at least that of `data`; by default the length of `data`.
            interface: the number of its interface, in the order of the producer's.
            direction: "in", "out", or "inout" where it is not known.

        Returns:
            True; or False if the producer is lossless and stop() came before its readers had room.

        Raises:
            ValueRefused: an argument is out of its range, or the producer is closed. A `time_ns` that is the present
                time in seconds is refused, too.
            TypeError: an argument is of the wrong type.
        """
        if time_ns is not None:
            time_ns = check_time(time_ns)
        if wirelen is not None:
            wirelen = check_wirelen(wirelen, data)
        return self._append(data, time_ns, wirelen, interface, direction)

    def _append(self, data: Any, time_ns: int | None, wirelen: int | None, interface: int, direction: str) -> bool:
        if type(interface) is not int or type(direction) is not str:  # nearly all have these types
            interface, direction = accepted("interface", interface, int), accepted("direction", direction, str)
        number = direction_number(direction)
        if not 0 <= interface < len(self._identity.interfaces):
            raise ValueRefused(f"interface {interface}: this producer has {len(self._identity.interfaces)}")
        self._check_open()
        moment = time.time_ns() if time_ns is None else time_ns
        try:
            return self._owner.append(data, moment, wirelen, interface, number)
        except TypeError:
            check_data(data)  # says what is wrong with it
            raise

    @checked
    def publish(self, source: Any, *, loops: int = 1, pace: Pace | None = None) -> int:
        """Publish everything that a source gives, until it ends or stop() is called.

        Args:
            source: a FileSource, LiveSource or ScapySource; a scapy socket or reader; or an iterable of bytes, of
                (bytes, time_ns), of RawPacket, or of scapy packets. No packet is dissected.
            loops: how many times to give the files of a FileSource or ScapySource; 0 for ever.
            pace: when packets are due, as Schedule.pace() makes it; by default, at once. A LiveSource ignores it.

        Returns:
            How many packets were published.

        Raises:
            ValueRefused: the source's link types or number of interfaces are not the producer's, or an item is no
                packet.
        """
        self._check_open()
        self._check_source(source)
        before = self.offered
        with contextlib.ExitStack() as tending:
            if isinstance(source, Attended):
                self._roster.live = source
                tending.enter_context(source.tending(self._owner.submit))
                pace = None  # its packets are due when they come
            if pace is not None and isinstance(source, Recorded):
                pace.set_recordings(source.recordings)
            for one in passes_of(source, loops):
                if not self._publish_pass(source, one, pace):
                    break
        return self.offered - before

    def _publish_pass(self, source: Any, one: Pass, pace: Pace | None) -> bool:
        """Whether another pass may follow."""
        if isinstance(one, NativeSource):
            paced = one if pace is None else Paced(one, pace)
            ended = self._owner.run(paced, lambda: self._announce(source, pace))
            return ended and not (pace is not None and pace.over)
        known = self._announcing(source, one, pace)
        self._publish_packets(known if pace is None else self._paced(known, pace))
        return not self._owner.stopping

    def _announce(self, source: Any, pace: Pace | None) -> None:
        """Tell readers, and the schedule, of interfaces that a source did not have at first."""
        self._roster.announce(self._appeared(source))
        if pace is not None and isinstance(source, Recorded):
            pace.set_recordings(source.recordings)

    def _announcing(self, source: Any, packets: Any, pace: Pace | None) -> Iterator[RawPacket | None]:
        """Packets from Python; before the first of an interface that the source has come upon, that is announced."""
        for packet in packets:
            if packet is not None and packet.interface >= len(self._identity.interfaces):
                self._owner.submit(lambda: self._announce(source, pace)).result()
            yield packet

    def _publish_packets(self, packets: Any) -> None:
        for packet in packets:
            if self._owner.stopping:
                break
            if packet is not None:
                self._append(packet.data, packet.time_ns, packet.wirelen, packet.interface, "inout")

    def _paced(self, packets: Iterator[RawPacket | None], pace: Pace) -> Iterator[RawPacket]:
        """Packets from Python, each when it is due, with the time that it is to carry."""
        for packet in packets:
            if packet is None:
                continue
            wirelen = len(packet.data) if packet.wirelen is None else packet.wirelen
            time_ns = None
            while time_ns is None and not (pace.over or self._owner.stopping):
                time_ns = pace.hold(packet.time_ns, wirelen, packet.interface)
            if time_ns is None:
                return
            yield packet._replace(time_ns=time_ns)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueRefused(f"producer {self.name!r} is closed: it takes no more packets")

    def _check_source(self, source: Any) -> None:
        ours = self._identity.interfaces
        theirs = getattr(source, "interfaces", [])
        if len(theirs) > len(ours):
            raise ValueRefused(
                f"the source has {len(theirs)} interfaces, the producer {len(ours)}: "
                f"make it with Producer({self.name!r}, interfaces={[interface.name for interface in theirs]})"
            )
        linktype = linktype_of(source)
        linktypes = [interface.linktype for interface in theirs] or ([] if linktype is None else [linktype])
        for one, interface in zip(linktypes, ours, strict=False):
            if one != interface.linktype:
                raise ValueRefused(
                    f"the source's link type is {one}, the producer's {interface.linktype}: "
                    f"make it with Producer({self.name!r}, linktype={one})"
                )

    def _appeared(self, source: Any) -> list[Interface]:
        """The interfaces of a source that are not announced yet."""
        return [
            _described(one, one.linktype) for one in getattr(source, "interfaces", [])[len(self._identity.interfaces) :]
        ]

    def _access(self, allow: Sequence[Rule]) -> Access:
        return Access(allow, self._identity.interfaces)

    def rotate(self) -> None:
        """Give the readers what is stored now, in buffers that are not full, as far as a buffer is free."""
        self._check_open()
        self._owner.submit(self._roster.rotate).result()

    # ---- readers ------------------------------------------------------------------------------------------------

    @checked
    def set_rules(self, allow: Sequence[Rule], limits: Limits) -> None:
        """Change who may read what, and how much they may ask for.

        A reader that may see something else under the new rules is hung up on. What is in use beyond new limits stays.

        Raises:
            ValueRefused: a rule names a user, group or interface that does not exist, or its filter does not compile;
                the old rules stay.
        """
        access = self._access(allow)
        self._roster.shares.limits = limits
        self._control.set_access(access)

    @checked
    def wait_readers(self, count: int, timeout_s: float | None = None) -> bool:
        """Wait until `count` readers are connected; False when the time is over, or on stop()."""
        return waiting.wait_readers(self._owner, self._roster, count, timeout_s)

    def wait_readers_gone(self) -> None:
        """Wait until no reader is connected, or for stop()."""
        waiting.wait_readers_gone(self._owner, self._roster)

    @property
    def unread(self) -> int:
        """How many packets the readers have yet to acknowledge."""
        return self._owner.submit(self._roster.buffered).result()

    def stats(self, timeout_s: float | None = None) -> Statistics:
        """Everything that was counted, as of one instant; TimeoutError if that takes longer than `timeout_s`."""
        identity, roster = self._identity, self._roster
        return self._owner.submit(lambda: roster.statistics(identity.name, identity.epoch)).result(timeout_s)

    def answers(self, timeout_s: float) -> bool:
        """Whether the thread that talks to readers and other clients does so, within a time."""
        return self._control.answers(timeout_s)

    @property
    def offered(self) -> int:
        """How many packets came in so far."""
        return self._owner.pump.offered

    @property
    def stopped(self) -> bool:
        """Whether stop() was called."""
        return self._owner.stopping

    def final_stats(self) -> Statistics:
        """stats() that includes the descriptors whose readers have left, and those that close() closed."""
        now = self.stats()
        return msgspec.structs.replace(now, descriptors=[*self._roster.closed_descriptors(), *now.descriptors])

    # ---- the end ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Make publish() return soon; from any thread, or from a signal handler."""
        self._owner.stop()

    def finish(self) -> None:
        """Say that no more packets come: readers get the tail, and find the end. close() does this, too.

        Nobody is let in any more. What readers ask is answered until close().
        """
        if not self._closed:
            self._owner.submit(self._roster.finish).result()

    def close(self) -> None:
        """Assign the tail, wait for the readers to acknowledge it (linger_s at most), and end. Again does nothing."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        _producers.discard(self)
        try:
            self._owner.submit(self._roster.finish).result()
            if not waiting.drain(self._owner, self._roster, self.linger_s) and self.linger_s:
                log.warning("%s: readers have not taken everything within %g s", self.name, self.linger_s)
        finally:
            self._ticks.stop()
            self._control.stop()
            self._place.release()

    def _clean_up_after_the_dead(self, salvage_dir: str | os.PathLike[str] | None) -> None:
        """Remove the segments of a killed producer of this name; save, or count, the packets that nobody had read."""
        if salvage_dir is not None:
            for saved in salvage_all(self.name, Path(salvage_dir)):
                log.warning("%s: %d packets of a producer that was killed: %s", self.name, saved.packets, saved.path)
        found = list(leftovers(self.name))
        for leftover in found:
            leftover.remove()
        if found:
            unread = sum(leftover.packets for leftover in found)
            log.warning(
                "%s: removed %d segment%s of a producer that was killed; %d packets in there were not acknowledged",
                self.name,
                len(found),
                "" if len(found) == 1 else "s",
                unread,
            )

    def _forget(self) -> None:
        self._closed = True
        self._control.forget()
        self._roster.forget()
        self._place.forget()


def _described(interface: str | Interface, linktype: int) -> Interface:
    """An interface as readers are told of it; one that is given by name has that link type."""
    found = Interface(interface, linktype) if isinstance(interface, str) else interface
    if not 0 <= found.linktype <= _LINKTYPE_MAX:
        raise ValueRefused(f"link type {found.linktype}: it must be from 0 to {_LINKTYPE_MAX}")
    return replace(found, name=encodable(found.name))


_producers: "weakref.WeakSet[Producer]" = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child shares the sockets and locks of its parent: readers would never see the parent die."""
    for producer in list(_producers):
        producer._forget()
    _producers.clear()


os.register_at_fork(after_in_child=_forget_in_child)
