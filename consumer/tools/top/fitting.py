"""Tables that fit a terminal: a narrow one shows fewer columns of them, a low one fewer rows.

They are laid out here and not by rich.table, which squeezes all of a table's columns until none can be read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

_GAP = 2


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    head: str
    number: bool = False
    """To the right."""
    rank: int = 0
    """If there is no room for all, columns of the highest rank are left out first; those of rank 0 never."""
    least: int | None = None
    """How narrow it may get before columns are left out; None for as wide as it is."""
    keep_end: bool = False
    """If it has to be cut, cut it at its beginning."""


@dataclass(frozen=True)
class Section:
    """A table; a row that is shorter than the columns ends with a remark, which goes on over those that follow."""

    name: str
    """What its rows are, as in "3 more readers"."""
    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]


def compose(
    heading: Text, sections: Sequence[Section], width: int | None = None, height: int | None = None
) -> list[Text]:
    """The lines of a heading and of the sections that have rows, within `width` columns and `height` lines."""
    tables = [(one.name, _lines(one, width)) for one in sections if one.rows]
    sizes = [len(lines) for _, lines in tables]
    apart = height is None or 1 + sum(sizes) + len(sizes) <= height  # an empty line before each, if there is room
    if height is not None and not apart:
        sizes = allot(sizes, height - 1)
    composed = [heading]
    for (name, lines), size in zip(tables, sizes, strict=True):
        composed += [Text()] * apart + _cut(name, lines, size)
    for line in composed:
        line.truncate(width or line.cell_len, overflow="crop")
    return composed[:height]


def allot(sizes: Sequence[int], room: int) -> list[int]:
    """Lines for each of some tables that want `sizes` lines: the longest give way first, of equal ones the last."""
    given = list(sizes)
    while sum(given) > max(0, room):
        longest = max(given)
        given[len(given) - 1 - given[::-1].index(longest)] -= 1
    return given


def _cut(name: str, lines: list[Text], size: int) -> list[Text]:
    """The first lines of a table, of which the last tells how many rows are left out."""
    if size >= len(lines) or size == 0:
        return lines[:size]
    return [*lines[: size - 1], Text(f"... {len(lines) - max(1, size - 1)} more {name}", style="italic")]


def _lines(section: Section, width: int | None) -> list[Text]:
    """The heads and the rows."""
    wanted = [_width(section, at) for at in range(len(section.columns))]
    widths = wanted if width is None else fit(section.columns, wanted, width)
    heads = _line(section.columns, [Text(one.head) for one in section.columns], widths)
    heads.stylize("bold underline")
    return [heads, *(_line(section.columns, row, widths) for row in section.rows)]


def _width(section: Section, at: int) -> int:
    cells = [row[at].cell_len for row in section.rows if at < len(row) - (len(row) < len(section.columns))]
    return max([len(section.columns[at].head), *cells])


def fit(columns: Sequence[Column], wanted: Sequence[int], room: int) -> list[int]:
    """The width that each column gets, at most what it wants; 0 for a column that is left out."""
    least = [want if one.least is None else min(want, one.least) for one, want in zip(columns, wanted, strict=True)]
    widths = list(wanted)
    while (excess := _total(widths) - room) > 0:
        excess -= sum(have - few for have, few in zip(widths, least, strict=True) if have)
        droppable = [at for at, one in enumerate(columns) if one.rank and widths[at]]
        if excess <= 0 or not droppable:
            return _shrink(widths, least, room)
        widths[max(droppable, key=lambda at: columns[at].rank)] = 0
    return widths


def _shrink(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Take from those columns that can give, the last one first."""
    shrunk = list(widths)
    for at in reversed(range(len(shrunk))):
        if shrunk[at]:
            shrunk[at] = max(least[at], shrunk[at] - max(0, _total(shrunk) - room))
    return shrunk


def _total(widths: Sequence[int]) -> int:
    kept = [width for width in widths if width]
    return sum(kept) + _GAP * (len(kept) - 1)


def _line(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for at, cell in enumerate(cells):
        is_remark = at == len(cells) - 1 < len(columns) - 1
        if not (widths[at] or is_remark):
            continue
        line.append(" " * _GAP if line else "")
        line.append_text(cell if is_remark else _padded(columns[at], cell, widths[at]))
    line.rstrip()
    return line


def _padded(column: Column, cell: Text, width: int) -> Text:
    fitted = cell[-width:] if column.keep_end and cell.cell_len > width else cell.copy()
    fitted.truncate(width, overflow="crop")
    blank = " " * (width - fitted.cell_len)
    return Text(blank).append_text(fitted) if column.number else fitted.append(blank)
