"""What became of all packets: for the end of a capture file, and for the end of a dump."""

import time
from dataclasses import dataclass

from zbuf.consumer.reading.reader import Reader
from zbuf.shared.control.statistics import Ledger, Statistics
from zbuf.shared.errors import ControlError
from zbuf.shared.memory.pcapng import statistics


def closing_blocks(interfaces: int, started_ns: int, ledger: Ledger) -> bytes:
    """The statistics block for the end of a file that was begun at `started_ns`; empty for several interfaces.

    The counts are the descriptor's ledger, which does not tell several interfaces apart.
    """
    if interfaces != 1:
        return b""
    counts = {name: getattr(ledger, name) for name in Ledger.__struct_fields__}
    return statistics(0, started_ns, time.time_ns(), counts)


@dataclass(frozen=True)
class Account:
    """What became of the packets while a dump ran."""

    ledger: Ledger
    """The descriptor's."""
    dropped_by_kernel: int | None = None
    """On all interfaces of the capture, since the dump began; None if the packets come from elsewhere, or the producer
    has ended."""

    def counts(self, captured: int) -> str:
        """The counts with which tcpdump ends; those received by the filter have passed it, dropped or not."""
        lines = [
            _counted(captured, "captured"),
            _counted(self.ledger.accepted, "received by filter"),
            _counted(self.ledger.dropped, "dropped by zbuf"),
        ]
        if self.dropped_by_kernel is not None:
            lines.append(_counted(self.dropped_by_kernel, "dropped by kernel"))
        return "".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count} packet{'' if count == 1 else 's'} {what}\n"


class Accountant:
    """Makes up the account of a reader, from now on.

    Args:
        reader: the reader.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._at_first = _dropped_by_kernel(_ask(reader))

    def account(self) -> Account:
        """The account at the end of the stream, or now if it has not ended."""
        found = None if self._reader.finished else _ask(self._reader)
        dropped, before = _dropped_by_kernel(found), self._at_first
        return Account(_ledger_in(found, self._reader), None if dropped is None or before is None else dropped - before)


def final_ledger(reader: Reader) -> Ledger:
    """The ledger of a reader's descriptor: at the end of the stream, or now if it has not ended."""
    return _ledger_in(None if reader.finished else _ask(reader), reader)


def _ledger_in(found: Statistics | None, reader: Reader) -> Ledger:
    if found is None:
        return reader.ledger()
    return next((one for one in found.descriptors if one.descriptor == reader.descriptor), Ledger())


def _ask(reader: Reader) -> Statistics | None:
    try:
        return reader.stats()
    except ControlError:
        return None


def _dropped_by_kernel(found: Statistics | None) -> int | None:
    return sum(one.dropped_by_kernel for one in found.live) if found is not None and found.live else None
