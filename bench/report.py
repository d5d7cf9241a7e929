"""The table and the JSON file."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.measure import Row

_COLUMNS = ("measure", "zbuf", "peer", "ratio", "spread", "target", "met?", "conditions")
_MET = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}
_LEGEND = """\
M/s, k/s: million, thousand packets a second. syscalls: per packet. switches: context switches per million packets. ns:
per packet offered. conditions: the time that a cache line takes to another processor and back, and the share of the
processors' time that other processes took. zbuf works on two processors, its peers on one: if processors are far
apart or busy with something else, its ratios are lower."""


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print what was measured, and under which conditions."""
    table = Table(*_COLUMNS)
    for row in rows:
        cells = (row.measure, row.zbuf, row.peer, row.ratio, row.spread, row.target)
        table.add_row(*map(escape, cells), _MET[row.met], row.conditions)
    console.print(table)
    console.print(_LEGEND)


def write_json(path: Path, rows: Sequence[Row], **facts: object) -> None:
    """Write every number, with the facts that they depend on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    measured = [dataclasses.asdict(row) for row in rows]
    path.write_text(json.dumps({**facts, "measures": measured}, indent=2) + "\n")
