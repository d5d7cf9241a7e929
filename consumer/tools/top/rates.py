"""Rates for zbuf top: how fast each count grew from one answer of a producer to the next.

The time between two answers is measured by the producer's clock, `uptime_s`, which is read together with the counts. So
rates are right even if an answer was slow, or one was missed. If a producer or a ledger began anew, there are no rates.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec

from zbuf.shared.control.statistics import DescriptorStatistics, InterfaceStatistics, ReaderStatistics, Statistics

HISTORY = 40
"""How many updates are remembered."""
_INTERVAL_MIN_S = 1e-6
"""Shorter intervals than this are not real: the producer's clock is wrong, and gives no rates."""

Rates = Mapping[str, float]
"""How much each count grew per second, by the name of the count; empty if that is not known."""

Counts = TypeVar("Counts", bound=msgspec.Struct)

_GROWING = {
    Statistics: ("offered", "waits"),
    InterfaceStatistics: ("received", "taken", "dropped_by_kernel", "dropped_by_interface"),
    DescriptorStatistics: (
        "received",
        "filtered",
        "accepted",
        "delivered",
        "dropped",
        "abandoned",
        "truncated",
        "received_bytes",
    ),
    ReaderStatistics: ("delivered", "stalls", "stalled"),
}


@dataclass(frozen=True)
class Rated(Generic[Counts]):
    """Counts, and how fast they grow."""

    now: Counts
    rates: Rates


@dataclass(frozen=True)
class RatedDescriptor(Rated[DescriptorStatistics]):
    """A descriptor and its readers."""

    readers: list[Rated[ReaderStatistics]]
    history: Sequence[float | None] = ()
    """Packets accepted per second at the last updates, the newest last; None if not known."""


@dataclass(frozen=True)
class Compared(Rated[Statistics]):
    """A producer's statistics, with the rates since the answer before."""

    interval_s: float
    """Seconds between the two answers, by the producer's clock; 0 if there is nothing to compare with."""
    live: list[Rated[InterfaceStatistics]]
    descriptors: list[RatedDescriptor]


def rates(before: Counts | None, now: Counts, interval_s: float) -> Rates:
    """How fast counts grow; empty if there are no earlier counts, or if one went back because it began anew."""
    if before is None or interval_s < _INTERVAL_MIN_S:
        return {}
    grown = {name: getattr(now, name) - getattr(before, name) for name in _GROWING[type(now)]}
    if min(grown.values()) < 0:
        return {}
    return {name: growth / interval_s for name, growth in grown.items()}


def compare(before: Statistics | None, now: Statistics) -> Compared:
    """All rates in `now`; `before` is an earlier answer under this name, which may be another producer's."""
    if before is not None and (before.epoch, before.pid) != (now.epoch, now.pid):
        before = None
    interval_s = max(0.0, now.uptime_s - before.uptime_s) if before is not None else 0.0
    interfaces = {} if before is None else {one.interface: one for one in before.live}
    descriptors = {} if before is None else {one.descriptor: one for one in before.descriptors}
    return Compared(
        now=now,
        rates=rates(before, now, interval_s),
        interval_s=interval_s,
        live=[Rated(one, rates(interfaces.get(one.interface), one, interval_s)) for one in now.live],
        descriptors=[_descriptor(descriptors.get(one.descriptor), one, interval_s) for one in now.descriptors],
    )


def _descriptor(before: DescriptorStatistics | None, now: DescriptorStatistics, interval_s: float) -> RatedDescriptor:
    readers = {} if before is None else {one.reader: one for one in before.readers}
    return RatedDescriptor(
        now=now,
        rates=rates(before, now, interval_s),
        readers=[Rated(one, rates(readers.get(one.reader), one, interval_s)) for one in now.readers],
    )


def is_slow(reader: Rated[ReaderStatistics]) -> bool:
    """Whether a descriptor dropped packets since the last update because this reader held a buffer."""
    return reader.rates.get("stalled", 0) > 0


class History:
    """Remembers the rates of each descriptor of a producer, for the last updates."""

    def __init__(self) -> None:
        self._epoch = 0
        self._accepted: dict[int, deque[float | None]] = {}

    def note(self, compared: Compared) -> Compared:
        """Add an update, and return it with the history of each descriptor."""
        known = self._accepted if compared.now.epoch == self._epoch else {}
        self._epoch, self._accepted = compared.now.epoch, {}
        return replace(compared, descriptors=[self._note(one, known) for one in compared.descriptors])

    def _note(self, one: RatedDescriptor, known: Mapping[int, deque[float | None]]) -> RatedDescriptor:
        number = one.now.descriptor
        accepted = self._accepted[number] = known.get(number, deque(maxlen=HISTORY))
        if one.rates or accepted:  # a descriptor that is seen for the first time has no rates
            accepted.append(one.rates.get("accepted"))
        return replace(one, history=tuple(accepted))
