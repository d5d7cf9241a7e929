"""Setting up a descriptor: its settings, its segment, and what a reader is given of it."""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.serving.access import Grant, Peer
from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.producer.serving.listener import Attached, Listener
from zbuf.producer.serving.roster import JustEnded
from zbuf.shared.control.settings import Settings
from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import DEFAULT_BUFFER_BYTES, MAX_CAPLEN, Layout, check_buffer_bytes
from zbuf.shared.memory.pcapng import Interface, prologue
from zbuf.shared.memory.reader_pages import make_ack_page, make_doorbell
from zbuf.shared.memory.segment import Segment

_GROWTH_BYTES = 64 << 10
"""What a prologue may grow by, for interfaces that appear later: a thousand of them."""


@dataclass
class Identity:
    """What a producer says of itself to its clients."""

    name: str
    epoch: int
    interfaces: list[Interface]
    """Those announced so far, in the order of their numbers; only the owner of the descriptors adds any."""
    application: str
    snaplen: int = MAX_CAPLEN
    """Bytes that the source keeps of each packet: no descriptor gets more."""


def complete_settings(asked: Settings | None, identity: Identity, buffer_bytes: int) -> Settings:
    """The settings of a descriptor: what a client asked for, within what the source gives.

    Args:
        asked: what the client asked for; None where it left everything to the producer.
        identity: the producer's.
        buffer_bytes: the size of a buffer where the client asked for none.

    Raises:
        ValueRefused: no buffer can have the size that was asked for.
    """
    wanted = asked or Settings()
    size = buffer_bytes if wanted.buffer_bytes is None else wanted.buffer_bytes
    check_buffer_bytes(size)
    return msgspec.structs.replace(wanted, buffer_bytes=size, snaplen=min(wanted.snaplen, identity.snaplen))


def make_listener(
    identity: Identity,
    settings: Settings,
    join: str | None,
    new_number: Callable[[], int],
    *,
    uid: int,
    grant: Grant,
    filters: LinkFilters,
    check: Callable[[], None] = lambda: None,
) -> Listener:
    """Make a descriptor with its memory; nothing feeds it yet.

    A large segment takes time, so that this is called while nobody waits for it. Interfaces that appear
    meanwhile are announced when the first reader is let in.

    Args:
        identity: the producer's.
        settings: complete.
        join: the name that readers share it under; None for a private one.
        new_number: gives numbers for descriptors.
        uid: the user that opens it.
        grant: what its readers may see.
        filters: of the settings' filter.
        check: called now and then; raises to give up.

    Raises:
        FilterError: what became of the filter is no valid program.
    """
    interfaces = tuple(identity.interfaces)
    guards = LinkFilters(grant.guard, interfaces)
    segment = _make_segment(identity, grant.shown(interfaces), settings, new_number, check)
    try:
        descriptor = Descriptor(
            snaplen=settings.snaplen,
            immediate=settings.immediate,
            timeout_ms=settings.timeout_ms,
            direction=settings.direction,
            interfaces=grant.interfaces,
            guard=guards.programs(interfaces),
        )
        descriptor.set_buffers(segment.map, *segment.layout.buffer_offsets, segment.layout.buffer_bytes)
        descriptor.set_filter(filters.programs(interfaces))
    except BaseException:
        segment.remove()
        raise
    segment.open()
    number = int(segment.layout.descriptor)
    return Listener(number, join, settings, segment, descriptor, uid, grant, filters, guards)


def _make_segment(
    identity: Identity,
    interfaces: Sequence[Interface],
    settings: Settings,
    new_number: Callable[[], int],
    check: Callable[[], None],
) -> Segment:
    """A segment under a number that is free: a producer of this name in another run directory may have taken some."""
    head = prologue(interfaces, settings.snaplen, identity.application)
    while True:
        layout = Layout(
            identity.name,
            str(new_number()),
            identity.epoch,
            settings.buffer_bytes or DEFAULT_BUFFER_BYTES,
            len(head),
            settings.snaplen,
            _GROWTH_BYTES,
        )
        try:
            return Segment(layout, head, check)
        except FileExistsError:
            continue


def make_reader(
    listener: Listener,
    number: int,
    peer: Peer,
    hang_up: Callable[[], None],
    fds: list[int],
    undo: contextlib.ExitStack,
) -> Attached:
    """Make the ack page and the doorbell of a reader that is about to join.

    Args:
        listener: the descriptor.
        number: the reader's.
        peer: whose the reader is.
        hang_up: closes its connection; from any thread.
        fds: takes the reader's file descriptors: of the segment, the ack page and the doorbell.
        undo: takes what closes the producer's side, if the reader is not let in after all.

    Raises:
        JustEnded: the descriptor's last reader has left meanwhile.
    """
    fds.append(_segment_fd(listener))
    ack_fd, ack_map = make_ack_page()
    fds.append(ack_fd)
    undo.callback(ack_map.close)
    bell_fd, doorbell = make_doorbell()
    fds.append(bell_fd)
    undo.callback(os.close, doorbell)
    return Attached(number, peer, ack_map, doorbell, hang_up)


def _segment_fd(listener: Listener) -> int:
    try:
        return listener.segment.reader_fd()
    except SegmentError:
        if listener.descriptor.closed:
            raise JustEnded from None
        raise
