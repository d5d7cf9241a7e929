"""Tables on standard output, for people.

They are written here, since rich takes longer to load than the commands that print them take for everything else.
"""

import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

from zbuf.shared.control.statistics import PACKET_COUNTS, DescriptorStatistics, Ledger
from zbuf.shared.names import printable


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on stdout; numbers are set to the right, and their thousands apart.

    A terminal that is too narrow wraps a line, which loses nothing.
    """
    if title:
        sys.stdout.write(f"{_bold(title)}\n")
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    numeric = [any(isinstance(row[at], int | float) for row in rows) for at in range(len(columns))]
    for number, row in enumerate(cells):
        line = "  ".join(map(_aligned, row, widths, numeric)).rstrip()
        sys.stdout.write(f"{line if number else _bold(line)}\n")


def _aligned(text: str, width: int, to_the_right: bool) -> str:
    room = " " * (width - _width(text))
    return room + text if to_the_right else text + room


def _width(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)


def _bold(text: str) -> str:
    is_plain = not sys.stdout.isatty() or os.environ.get("TERM", "dumb") == "dumb"
    return text if is_plain else f"\033[1m{text}\033[0m"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value))
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def print_ledgers(descriptors: Sequence[DescriptorStatistics], closed: Ledger | None = None) -> None:
    """Print a table of ledgers on stdout: a row for each descriptor; the last, if it has packets, for closed ones."""
    rows = [[_name(one), one.settings.filter or "-", *_counts(one)] for one in descriptors]
    if closed is not None and closed.received:
        rows.append(["closed", "", *_counts(closed)])
    if rows:
        print_table("", ["descriptor", "filter", *PACKET_COUNTS, "received bytes", "dropped bytes"], rows)


def _name(one: DescriptorStatistics) -> str:
    return f"{one.descriptor}" + (f" ({one.join})" if one.join else "")


def _counts(ledger: Ledger) -> list[int]:
    return [getattr(ledger, count) for count in (*PACKET_COUNTS, "received_bytes", "dropped_bytes")]
