"""What a listener has counted, as statistics tell it, and sums of ledgers."""

from collections.abc import Iterable, Iterator

import msgspec

from zbuf.producer.serving.listener import Listener
from zbuf.shared.control.settings import Settings
from zbuf.shared.control.statistics import FILTER_SHOWN_LENGTH, DescriptorStatistics, Ledger, ReaderStatistics


def statistics_of(listener: Listener, *, is_open: bool) -> DescriptorStatistics:
    """The ledger of a descriptor and the counts of its readers, as of now; only the owner may ask."""
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


def _shown(settings: Settings) -> Settings:
    """Settings with a filter that is not too long: the statistics of all descriptors have to fit into one datagram."""
    if len(settings.filter) <= FILTER_SHOWN_LENGTH:
        return settings
    return msgspec.structs.replace(settings, filter=settings.filter[: FILTER_SHOWN_LENGTH - 3] + "...")


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


def add_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
    """The sums over several descriptors."""
    rows = [ledger_dict(one).values() for one in ledgers]
    return Ledger(*map(sum, zip(*rows, strict=True)))


def ledger_dict(ledger: Ledger) -> dict[str, int]:
    """The counts by name."""
    return {name: getattr(ledger, name) for name in Ledger.__struct_fields__}
