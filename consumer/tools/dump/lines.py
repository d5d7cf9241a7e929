"""A line for each packet, as tcpdump prints them, dissected by scapy."""

import sys
import time
from collections.abc import Callable
from typing import Any

from zbuf.consumer.reading.buffer import Packet
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.names import printable


class Lines:
    """Prints a line for each packet: the time of day, scapy's summary, and the length.

    Args:
        reader: the reader whose packets will be shown.
    """

    finished = False
    deadline = None

    def __init__(self, reader: Reader) -> None:
        self.packets = 0
        self._reader = reader
        self._describers: dict[int, Callable[[bytes], str]] = {}
        load_dissectors()

    def take(self, blocks: Blocks, last: int) -> int:
        """Print the packets before number `last`."""
        for _, packet in zip(range(last), blocks.buffer, strict=False):
            seconds, nanoseconds = divmod(packet.time_ns, 1_000_000_000)
            sys.stdout.write(
                f"{_time_of_day(seconds)}.{nanoseconds:09d} {self._describe(packet)}, length {packet.wirelen}\n"
            )
        sys.stdout.flush()
        self.packets += last
        return last

    def _describe(self, packet: Packet) -> str:
        linktype = self._reader.interfaces[packet.interface].linktype
        if linktype not in self._describers:
            self._describers[linktype] = _describer(linktype)
        return self._describers[linktype](bytes(packet))

    def tick(self) -> None:
        """Do nothing."""

    def finish(self, ledger: Ledger) -> None:
        """Do nothing: there are no files."""

    def close(self) -> None:
        """Do nothing: there are no files."""


def _time_of_day(seconds: int) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def load_dissectors() -> None:
    """Import scapy, which takes a second or more; call this before you connect, since buffers fill meanwhile."""
    import logging

    logging.getLogger("scapy").setLevel(logging.ERROR)
    import scapy.all  # noqa: F401  (it registers the layers)


def _describer(linktype: int) -> Callable[[bytes], str]:
    """Make a function that describes a packet in a few words."""
    from scapy.config import conf

    if linktype not in conf.l2types.num2layer:
        return lambda data: f"link type {linktype}: {data[:32].hex()}"
    layer: Any = conf.l2types.num2layer[linktype]

    def describe(data: bytes) -> str:
        try:
            return printable(str(layer(data).summary()))
        except Exception as error:  # a dissector that meets a malformed packet may raise anything
            return f"malformed ({type(error).__name__}): {data[:32].hex()}"

    return describe
