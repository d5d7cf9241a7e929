"""The statistics at the end of a capture file: what became of all packets."""

import time

from zbuf.consumer.reading.reader import Reader
from zbuf.shared.control.statistics import Ledger
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


def final_ledger(reader: Reader) -> Ledger:
    """The ledger of a reader's descriptor: at the end of the stream, or now if it has not ended."""
    if reader.finished:
        return reader.ledger()
    try:
        found = reader.stats().descriptors
    except ControlError:
        return reader.ledger()
    return next((one for one in found if one.descriptor == reader.descriptor), Ledger())
