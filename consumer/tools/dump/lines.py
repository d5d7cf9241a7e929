"""Packets as lines: by tcpdump if it is there and can print them, else in zbuf's own words."""

import os
import sys
from typing import Protocol

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.packet_lines import PacketLines
from zbuf.consumer.tools.dump.records import losses
from zbuf.consumer.tools.dump.style import Style
from zbuf.consumer.tools.dump.tcpdump import CannotStart, Tcpdump, can_print, find_tcpdump
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.names import linktypes_of, printable

_STDOUT = 1


class Printer(Protocol):
    """What prints the packets of a buffer."""

    def print(self, blocks: Blocks, last: int) -> None:
        """Print the packets before number `last`, and a line wherever others were lost."""

    def finish(self) -> None:
        """Print what is not printed yet."""

    def close(self) -> None:
        """Give up."""


class Lines:
    """Prints packets to standard output as they come.

    Args:
        reader: the reader whose packets will be shown.
        style: how.
    """

    finished = False
    deadline = None

    def __init__(self, reader: Reader, style: Style) -> None:
        self.packets = 0
        self._reader = reader
        self._style = style
        self._linktypes = set(reader.linktypes)
        self._interfaces = len(reader.interfaces)
        self._printer = self._choose()

    def take(self, blocks: Blocks, last: int) -> int:
        """Print the packets before number `last`."""
        if len(self._reader.interfaces) > self._interfaces:
            self._note_interfaces()
        if last:
            self._printer.print(blocks, last)
        self.packets += last
        return last

    def _note_interfaces(self) -> None:
        """Choose again, since interfaces have appeared, which may have another link type."""
        self._interfaces = len(self._reader.interfaces)
        linktypes = set(self._reader.linktypes)
        if isinstance(self._printer, OwnLines):
            self._printer.describe(self._reader)
        elif linktypes != self._linktypes:
            self._printer.finish()
            self._printer.close()
            self._printer = self._choose()
        self._linktypes = linktypes

    def _choose(self) -> Printer:
        program = find_tcpdump()
        obstacle = _obstacle(program, self._reader)
        if program is not None and obstacle is None:
            try:
                return ByTcpdump(program, self._reader, self._style)
            except CannotStart:
                obstacle = "tcpdump would have to run as root"
        left_out = self._style.only_tcpdumps()
        without = f", without {' '.join(left_out)}" if left_out else ""
        sys.stderr.write(f"zbuf: {obstacle}: these are zbuf's own lines{without}\n")
        return OwnLines(self._reader, self._style)

    def tick(self) -> None:
        """Do nothing."""

    def finish(self, ledger: Ledger) -> None:
        """Print what is not printed yet."""
        del ledger
        self._printer.finish()

    def close(self) -> None:
        """End what prints."""
        self._printer.close()


def _obstacle(program: str | None, reader: Reader) -> str | None:
    """Why tcpdump can't print a reader's packets; None if it can."""
    if program is None:
        return "tcpdump is not installed"
    if len(set(reader.linktypes)) > 1:
        return f"tcpdump prints one link type at a time, not {linktypes_of(reader.linktypes)}"
    if not can_print(program, reader.linktype):
        return f"tcpdump does not print link type {reader.linktype}"
    return None


def _lost(count: int) -> str:
    return f"zbuf: {count} packet{' was' if count == 1 else 's were'} lost here\n"


class ByTcpdump:
    """Packets printed by tcpdump."""

    def __init__(self, program: str, reader: Reader, style: Style) -> None:
        self._tcpdump = Tcpdump(program, style.words(), reader.linktype, reader.snaplen)

    def print(self, blocks: Blocks, last: int) -> None:
        """Feed tcpdump the packets before number `last`."""
        where = [(number, count) for number, count in losses(blocks.buffer) if number < last]
        edges = [number for number, _ in where] + [last]
        if edges[0]:
            with blocks.records.view(0, edges[0]) as records:
                self._tcpdump.print(records)
        for (number, count), end in zip(where, edges[1:], strict=True):
            with blocks.records.view(number, end) as records:
                self._tcpdump.print_after_line(_lost(count), records)

    def finish(self) -> None:
        """Wait until everything is printed."""
        self._tcpdump.finish()

    def close(self) -> None:
        """End tcpdump."""
        self._tcpdump.close()


class OwnLines:
    """Packets in the form of tcpdump -n, with the interface's name if there are several."""

    def __init__(self, reader: Reader, style: Style) -> None:
        self._lines = PacketLines(style.times, style.numbered, style.nanoseconds)
        self.describe(reader)

    def describe(self, reader: Reader) -> None:
        """Take note of the interfaces that there are."""
        names = [printable(one.name).encode() for one in reader.interfaces]
        self._lines.describe(list(reader.linktypes), names if len(names) > 1 else [])

    def print(self, blocks: Blocks, last: int) -> None:
        """Write the lines of the packets before number `last`."""
        with memoryview(self._lines.lines(blocks.buffer, last)) as lines:
            written = 0
            while written < len(lines):
                written += os.write(_STDOUT, lines[written:])

    def finish(self) -> None:
        """Nothing is left to print."""

    def close(self) -> None:
        """Nothing is open."""
