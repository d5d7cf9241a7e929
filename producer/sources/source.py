"""What a producer asks of the sources that it publishes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from zbuf.producer.ring.contract import NativeSource
from zbuf.producer.sources.python import RawPacket, packets_of

Pass = NativeSource | Iterator[RawPacket | None]
"""A native source that the pump runs, or packets as packets_of() gives them."""


@runtime_checkable
class Source(Protocol):
    """A source that knows how it is best published, natively where it can be."""

    def passes(self, count: int) -> Iterator[Pass]:
        """What to publish, one after the other, to give all packets `count` times; 0 is for ever."""


@runtime_checkable
class Attended(Protocol):
    """A source that has to be attended to while it is published, as live interfaces have to be.

    tick() and statistics() are called by the owner of the descriptors.
    """

    def tending(self, submit: Callable[[Callable[[], None]], "Future[None]"]) -> AbstractContextManager[None]:
        """Lasts as long as the publishing; `submit` has the owner carry something out."""

    def tick(self) -> None:
        """Called now and then."""

    def statistics(self) -> list[Any]:
        """An InterfaceStatistics for each interface."""


@runtime_checkable
class Recorded(Protocol):
    """A source of several recordings: the time between one and the next was never recorded."""

    @property
    def recordings(self) -> Sequence[int]:
        """Which recording each interface is of, in the order of their numbers; see Pace.set_recordings()."""


def passes_of(source: Any, count: int) -> Iterator[Pass]:
    """The passes of anything that can be published: see Producer.publish()."""
    return source.passes(count) if isinstance(source, Source) else iter([packets_of(source)])
