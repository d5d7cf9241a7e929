"""zbuf compare: two reports of load tests side by side.

A figure is better only if its spread says so: the ranges in which the two reports have seen it must not meet. A sweep's
range is that of its tries, a replay's that of its seconds; a count of packets is exact. A figure that was measured
once has no range, so nothing is said of it.
"""

import json as jsons
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from zbuf.shared.cli.options import Json
from zbuf.shared.cli.tables import print_table
from zbuf.shared.errors import ZbufError

_KINDS = ("replay", "sweep")
Range = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One number of a report."""

    name: str
    value: float
    better: int = 0
    """1 if more is better, -1 if less is, 0 if neither is."""
    range: Range | None = None
    """The lowest and the highest value that were seen; None if it was measured once."""


@dataclass(frozen=True)
class Row:
    """One figure of two reports."""

    name: str
    first: float
    second: float
    ratio: float | None
    """The second by the first; None if the first is 0."""
    better: str
    """"first" or "second", beyond spread; "same" within it; "-" if that can't be told."""


def compare(
    first: Annotated[str, typer.Argument(metavar="A.json", help="A report: zbufd replay --json, or sweep --json.")],
    second: Annotated[str, typer.Argument(metavar="B.json", help="Another report of the same command.")],
    json: Json = False,
) -> None:
    """Compare two reports of load tests: each figure, the ratio of B to A, and which is better beyond spread."""
    reports = _load(first), _load(second)
    kinds = [one["report"] for one in reports]
    if kinds[0] != kinds[1]:
        raise ZbufError(
            f"{first} is of zbufd {kinds[0]}, {second} of zbufd {kinds[1]}: give two reports of one command"
        )
    rows = rows_of(*reports)
    if json:
        sys.stdout.write(jsons.dumps([asdict(one) for one in rows], indent=2) + "\n")
        return
    named = {"first": first, "second": second}
    cells = [
        [
            one.name,
            one.first,
            one.second,
            "-" if one.ratio is None else f"{one.ratio:.3f}",
            named.get(one.better, one.better),
        ]
        for one in rows
    ]
    print_table("", ["figure", first, second, "ratio", "better"], cells)


def rows_of(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    """Compare the figures that two reports have in common."""
    others = {one.name: one for one in _figures(second)}
    return [_row(one, others[one.name]) for one in _figures(first) if one.name in others]


def _row(one: Figure, other: Figure) -> Row:
    ratio = other.value / one.value if one.value else None
    return Row(one.name, one.value, other.value, ratio, _better(one, other))


def _better(one: Figure, other: Figure) -> str:
    if not one.better or one.range is None or other.range is None:
        return "-"
    if one.range[0] <= other.range[1] and other.range[0] <= one.range[1]:
        return "same"
    return "second" if (other.value - one.value) * one.better > 0 else "first"


# ---- reports --------------------------------------------------------------------------------------------------------


def _load(path: str) -> dict[str, Any]:
    try:
        report = jsons.loads(Path(path).read_text())
    except OSError as error:
        raise ZbufError(f"{path}: {error.strerror}: give the file of a report") from None
    except ValueError:
        report = None
    if not isinstance(report, dict) or report.get("report") not in _KINDS:
        raise ZbufError(f"{path} is not a report: write one with zbufd replay --json, or zbufd sweep --json")
    try:
        list(_figures(report))
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
        raise ZbufError(f"{path} is a report of another version of zbuf, or a part of one: make it again") from None
    return report


def _figures(report: dict[str, Any]) -> Iterator[Figure]:
    return _of_sweep(report) if report["report"] == "sweep" else _of_replay(report)


def _of_sweep(report: dict[str, Any]) -> Iterator[Figure]:
    for name in ("ndr", "pdr"):
        found = report[name]
        if found is not None:
            middle, about = float(found["pps"]), float(found["uncertainty_pps"])
            low = min(float(found["lowest_pps"]), middle - about)
            high = max(float(found["highest_pps"]), middle + about)
            yield Figure(f"{name.upper()} packets/s", middle, 1, (low, high))
    yield Figure("trials", float(len(report["trials"])))


def _of_replay(report: dict[str, Any]) -> Iterator[Figure]:
    seconds, pacing = report["over_time"], report["pacing"]
    rates = [one["offered"] / one["seconds"] for one in seconds]
    yield Figure("packets", float(report["packets"]))
    yield Figure("packets/s", float(report["packets_per_second"]), 1 if pacing is None else 0, _range(rates))
    yield _exact("lost", report["lost"])
    if pacing is not None:
        yield _exact("late", pacing["behind"])
        yield from _lags(pacing["lag_us"], seconds)
    for name, value in report["latency_us"].items():
        yield Figure(f"latency {name} µs", float(value), -1)


def _lags(lags: dict[str, float], seconds: list[dict[str, float]]) -> Iterator[Figure]:
    for name, value in lags.items():
        seen = [one[f"lag_{name}_us"] for one in seconds if f"lag_{name}_us" in one]
        yield Figure(f"lag {name} µs", float(value), -1, _range(seen))


def _exact(name: str, count: int) -> Figure:
    return Figure(name, float(count), -1, (count, count))


def _range(values: list[float]) -> Range | None:
    return (min(values), max(values)) if len(values) > 1 else None
