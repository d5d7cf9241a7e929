"""Tables on standard output, for people."""

from collections.abc import Sequence
from typing import Any

from zbuf.shared.control.statistics import PACKET_COUNTS, DescriptorStatistics, Ledger
from zbuf.shared.names import printable


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table on stdout; numbers are set to the right, and their thousands apart."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, title_style="bold")
    for number, column in enumerate(columns):
        numeric = bool(rows) and isinstance(rows[0][number], int | float)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    natural = Console(width=1000, markup=False, emoji=False).measure(table).maximum
    width = max(natural, Console().width)  # a terminal that is too narrow wraps a line, which loses nothing
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


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
