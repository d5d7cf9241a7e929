"""Tables of a run in Markdown: ``python -m bench.tables FILE.json docs/performance.md`` puts its numbers into a page.

A table whose heads are all known is a table of measures. It keeps its heads and its measures; the run's rows replace
the rows of the measures that the run has.
"""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Row = Mapping[str, Any]
"""A row of the JSON file: see bench.measure.Row."""

_FIELDS = {
    "measure": "measure",
    "line": "measure",
    "zbuf": "zbuf",
    "busy": "zbuf",
    "peer": "peer",
    "beside": "peer",
    "sent, captured, dropped": "peer",
    "": "peer",
    "ratio": "ratio",
    "spread": "spread",
    "target": "target",
    "met?": "met",
    "conditions": "conditions",
}
"""Which field of a row stands below which head."""

_WORDS = {True: "yes", False: "no", None: ""}


def updated(page: str, rows: Sequence[Row]) -> str:
    """A page of Markdown with the numbers of a run in its tables."""
    parts = itertools.groupby(page.splitlines(keepends=True), lambda line: line.startswith("|"))
    return "".join("".join(_table(list(lines), rows) if is_table else lines) for is_table, lines in parts)


def _table(lines: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    heads = _cells(lines[0])
    yield from lines[:2]
    if not _FIELDS.keys() >= set(heads):
        yield from lines[2:]
        return
    for measure in dict.fromkeys(_cells(line)[0] for line in lines[2:]):
        new = [_line(_value(row, head) for head in heads) for row in rows if row["measure"] == measure]
        yield from new or (line for line in lines[2:] if _cells(line)[0] == measure)


def rows_of(page: str) -> list[Row]:
    """The rows of a page's tables, as a run has them; those of tables with other heads are left out."""
    parts = itertools.groupby(page.splitlines(), lambda line: line.startswith("|"))
    return [row for is_table, lines in parts if is_table for row in _rows_of(list(lines))]


def _rows_of(lines: Sequence[str]) -> Iterator[Row]:
    heads = _cells(lines[0])
    if _FIELDS.keys() >= set(heads):
        for line in lines[2:]:
            yield {_FIELDS[head]: cell for head, cell in zip(heads, _cells(line), strict=True)}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _value(row: Row, head: str) -> str:
    value = row[_FIELDS[head]]
    return _WORDS[value] if head == "met?" else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def main(
    run: Annotated[Path, typer.Argument(metavar="FILE.json", help="The run, from bench/results.")],
    page: Annotated[Path, typer.Argument(metavar="PAGE.md", help="The page to change.")],
) -> None:
    """Put the numbers of a run into the tables of a page."""
    try:
        page.write_text(updated(page.read_text(), json.loads(run.read_text())["measures"]))
    except OSError as error:
        sys.exit(f"bench.tables: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    typer.run(main)
