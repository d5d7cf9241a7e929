"""Tables that fit a terminal: a narrow terminal shows fewer columns, a low one fewer rows.

rich.table would squeeze all columns until nothing can be read; here, the less important ones are left out.
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
    """Whether its cells are set to the right."""
    rank: int = 0
    """If room is short, columns of the highest rank are left out first; columns of rank 0 always stay."""
    least: int | None = None
    """How narrow the column may get before columns are left out; None to keep its width."""
    keep_end: bool = False
    """Whether a cell that is too long loses its beginning, not its end."""


@dataclass(frozen=True)
class Section:
    """A table. A row with fewer cells than columns ends with a remark, which takes the room of the other columns."""

    name: str
    """What the rows are, as in "3 more readers"."""
    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]


def compose(
    heading: Text, sections: Sequence[Section], width: int | None = None, height: int | None = None
) -> list[Text]:
    """The lines of a heading and of all sections with rows, within `width` columns and `height` lines."""
    tables = [(one.name, _lines(one, width)) for one in sections if one.rows]
    sizes = [len(lines) for _, lines in tables]
    apart = height is None or 1 + sum(sizes) + len(sizes) <= height  # an empty line before each table, if there is room
    if height is not None and not apart:
        sizes = allot(sizes, height - 1)
    composed = [heading]
    for (name, lines), size in zip(tables, sizes, strict=True):
        composed += [Text()] * apart + _cut(name, lines, size)
    for line in composed:
        line.truncate(width or line.cell_len, overflow="crop")
    return composed[:height]


def allot(sizes: Sequence[int], room: int) -> list[int]:
    """Share `room` lines among tables that want `sizes` lines: the longest table gives way first, then the last."""
    given = list(sizes)
    while sum(given) > max(0, room):
        longest = max(given)
        given[len(given) - 1 - given[::-1].index(longest)] -= 1
    return given


def _cut(name: str, lines: list[Text], size: int) -> list[Text]:
    """The first lines of a table; if rows are left out, the last line tells how many."""
    if size >= len(lines) or size == 0:
        return lines[:size]
    return [*lines[: size - 1], Text(f"... {len(lines) - max(1, size - 1)} more {name}", style="italic")]


def _lines(section: Section, width: int | None) -> list[Text]:
    """The lines of a table: its heads and its rows."""
    wanted = [_width(section, at) for at in range(len(section.columns))]
    widths = wanted if width is None else fit(section.columns, wanted, width)
    heads = _line(section.columns, [Text(one.head) for one in section.columns], widths)
    heads.stylize("bold underline")
    return [heads, *(_line(section.columns, row, widths) for row in section.rows)]


def _width(section: Section, at: int) -> int:
    cells = [row[at].cell_len for row in section.rows if at < len(row) - (len(row) < len(section.columns))]
    return max([len(section.columns[at].head), *cells])


def fit(columns: Sequence[Column], wanted: Sequence[int], room: int) -> list[int]:
    """The width of each column, at most what it wants; 0 for a column that is left out."""
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
    """Make columns narrower until they fit, the last one first, each down to its least width."""
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
