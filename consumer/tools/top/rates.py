"""What zbuf top makes of statistics: how fast each count grows, from one answer of a producer to its next.

Counts are compared by the producer's own clock, `uptime_s`, which is read in the instant that they are. So how long an
answer took, or that one was missed, makes no rate wrong. Where a producer or a ledger began anew there is nothing to
compare with, and no rate.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec

from zbuf.shared.control.statistics import DescriptorStatistics, InterfaceStatistics, ReaderStatistics, Statistics

HISTORY = 40
"""Updates that are remembered."""
_INTERVAL_MIN_S = 1e-6
"""No update is as short: a producer whose clock says so is not to be believed."""

Rates = Mapping[str, float]
"""Of counts, by their names: how much they grew a second. Empty where that can't be told."""

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
    """Packets accepted a second, at the last updates, the newest one last; None where that is not known."""


@dataclass(frozen=True)
class Compared(Rated[Statistics]):
    """A producer's statistics, with the rates since those before."""

    interval_s: float
    """Between the two, by the producer's clock; 0 where there is nothing to compare with."""
    live: list[Rated[InterfaceStatistics]]
    descriptors: list[RatedDescriptor]


def rates(before: Counts | None, now: Counts, interval_s: float) -> Rates:
    """How fast counts grow: none where there are no earlier ones, or one went back, since it began anew."""
    if before is None or interval_s < _INTERVAL_MIN_S:
        return {}
    grown = {name: getattr(now, name) - getattr(before, name) for name in _GROWING[type(now)]}
    if min(grown.values()) < 0:
        return {}
    return {name: growth / interval_s for name, growth in grown.items()}


def compare(before: Statistics | None, now: Statistics) -> Compared:
    """The rates of everything in `now`; `before` is an earlier answer to the same name, perhaps another producer's."""
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
    """Whether its descriptor dropped packets since the last update because this reader held a buffer."""
    return reader.rates.get("stalled", 0) > 0


class History:
    """Of each descriptor of a producer, the rates at the last updates."""

    def __init__(self) -> None:
        self._epoch = 0
        self._accepted: dict[int, deque[float | None]] = {}

    def note(self, compared: Compared) -> Compared:
        """Take an update in, and return it with the history of each descriptor."""
        known = self._accepted if compared.now.epoch == self._epoch else {}
        self._epoch, self._accepted = compared.now.epoch, {}
        return replace(compared, descriptors=[self._note(one, known) for one in compared.descriptors])

    def _note(self, one: RatedDescriptor, known: Mapping[int, deque[float | None]]) -> RatedDescriptor:
        number = one.now.descriptor
        accepted = self._accepted[number] = known.get(number, deque(maxlen=HISTORY))
        if one.rates or accepted:  # not the first time that it is seen
            accepted.append(one.rates.get("accepted"))
        return replace(one, history=tuple(accepted))
