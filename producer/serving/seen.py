"""What a peer may see of the statistics: they go by its grant, as packets do.

Of descriptors whose readers may see other packets than the peer, it learns nothing, since their counts are of packets
that it may not see. Of other users' descriptors with its own grant it sees the ledger, without filter, name and users.
Root, and the user that the producer runs as, see everything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from zbuf.producer.serving.access import Grant, Peer, is_operator
from zbuf.producer.serving.listener import Listener
from zbuf.shared.control.statistics import DescriptorStatistics, Ledger, ReaderStatistics, Statistics


@dataclass(frozen=True)
class Viewer:
    """Who asks for statistics, and what it may see."""

    peer: Peer
    grant: Grant

    @property
    def sees_all(self) -> bool:
        """Whether nothing has to be left out."""
        return is_operator(self.peer.uid)

    def seen(self, everything: Statistics, listeners: Mapping[int, Listener], closed: Ledger) -> Statistics:
        """Statistics without what the peer may not see.

        Args:
            everything: all of them.
            listeners: the open descriptors, by number.
            closed: the sum over the closed descriptors that had the peer's grant.
        """
        shows = self.grant.shows
        return msgspec.structs.replace(
            everything,
            interfaces=[name for number, name in enumerate(everything.interfaces) if shows(number)],
            linktypes=[linktype for number, linktype in enumerate(everything.linktypes) if shows(number)],
            live=[one for number, one in enumerate(everything.live) if shows(number)],
            descriptors=list(self._descriptors(everything.descriptors, listeners)),
            closed=closed,
        )

    def _descriptors(
        self, every: list[DescriptorStatistics], listeners: Mapping[int, Listener]
    ) -> Iterator[DescriptorStatistics]:
        for one in every:
            listener = listeners[one.descriptor]
            readers = [self._reader(reader) for reader in one.readers]
            if self._is_mine(listener):
                yield msgspec.structs.replace(one, readers=readers)
            elif listener.grant == self.grant:
                settings = msgspec.structs.replace(one.settings, filter="")
                yield msgspec.structs.replace(one, join=None, settings=settings, readers=readers)

    def _is_mine(self, listener: Listener) -> bool:
        uid = self.peer.uid
        return listener.uid == uid or any(reader.peer.uid == uid for reader in listener.readers.values())

    def _reader(self, reader: ReaderStatistics) -> ReaderStatistics:
        return reader if reader.user == self.peer.uid else msgspec.structs.replace(reader, pid=0, user=None)
