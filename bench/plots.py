"""Plots of a run, from its JSON file: ``python -m bench.plots FILE.json`` draws them again.

Each thing that was measured has a plot: ratios to the peers, the four ratios of the README, rates by the number of
readers, by buffer size and by packet size, with the fitted lines. Each plot is a PNG file beside the JSON file.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import headline
from zbuf.shared.cli.plot import new_figure, save_plot
from zbuf.shared.errors import ZbufError

Rows = Sequence[Mapping[str, Any]]
"""Rows of the JSON file."""


def draw(path: Path) -> list[Path]:
    """Draw whatever the run measured.

    Args:
        path: the JSON file.

    Returns:
        The files written; an empty list if matplotlib is not installed.

    Raises:
        ZbufError: a file can't be written.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    rows = json.loads(path.read_text())["measures"]
    return [_save(path, name, draw_one, found) for name, draw_one in _PLOTS.items() if (found := _rows(rows, name))]


def _save(path: Path, name: str, draw_one: "Callable[[Any, Rows], None]", rows: Rows) -> Path:
    figure, target = new_figure(), path.with_name(f"{path.stem}-{name}.png")
    draw_one(figure, rows)
    save_plot(figure, str(target))
    return target


def _rows(rows: Rows, name: str) -> Rows:
    if name == "peers":
        return [row for row in rows if "ratio" in row["data"]]
    if name == "headline":
        return [row for _, row in headline.jobs(rows)]
    return [row for row in rows if row["data"].get("series") == name]


def _points(rows: Rows) -> list[dict[str, Any]]:
    return [row["data"] for row in rows if "rounds" in row["data"]]


def _coefficients(rows: Rows, what: str) -> list[float]:
    return [row["data"]["value"] for row in rows if row["data"].get("fit") == what]


def _ratios(figure: Any, rows: Rows) -> None:
    figure.set_figheight(max(6, len(rows) / 4))
    axes = figure.add_subplot()
    ratios = [row["data"]["ratio"] for row in rows]
    colors = ["tab:green" if one >= 1 else "tab:red" for one in ratios]
    bars = axes.barh(range(len(rows)), [one - 1 for one in ratios], left=1, color=colors)
    axes.bar_label(bars, [f"{one:.2f}" for one in ratios], padding=3, fontsize="x-small")
    labels = [f"{row['measure']} / {row['data'].get('peer', row['peer'].split()[0])}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize="x-small")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(title="zbuf beside its peers: above 1, zbuf is faster", xlabel="ratio", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize="x-small")
    axes.margins(x=0.1)
    axes.invert_yaxis()


def _readers(figure: Any, rows: Rows) -> None:
    rates, costs = figure.subplots(1, 2)
    for joined, called in ((False, "a descriptor each"), (True, "joined")):
        points = [one for one in _points(rows) if one["joined"] == joined]
        counts = [one["readers"] for one in points]
        _with_spread(rates, counts, points, "packets_per_second", 1e6, called)
        for side, mark in (("producer", "o"), ("readers", "^")):
            label = f"{'all ' if side == 'readers' else ''}{side}, {called}"
            drawn = costs.plot(counts, [one["medians"][f"{side}_ns"] for one in points], mark, label=label)
            first, descriptor, reader = _coefficients(rows, f"{side}_ns")
            line = [first + (count - 1) * (reader + (0 if joined else descriptor)) for count in counts]
            costs.plot(counts, line, color=drawn[0].get_color(), linewidth=0.8)
    _name(rates, "packets offered", "readers", "million packets a second")
    _name(costs, "processor time, and the fitted lines", "readers", "ns per packet", logarithmic=True)


def _buffers(figure: Any, rows: Rows) -> None:
    axes, points = figure.add_subplot(), _points(rows)
    kibibytes = [one["buffer_bytes"] / 1024 for one in points]
    _with_spread(axes, kibibytes, points, "packets_per_second", 1e6, "one reader that indexes")
    _name(axes, "rate by buffer size", "KiB in each of the two buffers", "million packets a second")


def _sizes(figure: Any, rows: Rows) -> None:
    costs, speeds = figure.subplots(1, 2)
    points = [one for one in _points(rows) if not one["mixed"]]
    sizes = [one["packet_bytes"] for one in points]
    for one in (one for one in _points(rows) if one["mixed"]):
        costs.plot(one["packet_bytes"], one["medians"]["ns"], "x", label="mixed sizes")
        speeds.plot(one["packet_bytes"], one["medians"]["bytes_per_second"] / 1e9, "x", label="mixed sizes")
    _with_spread(costs, sizes, points, "ns", 1, "one size", line="none")
    packet, byte = _coefficients(rows, "ns")
    costs.plot(sizes, [packet + byte * size for size in sizes], label=f"{packet:.1f} + {byte:.4f} per byte")
    _with_spread(speeds, sizes, points, "bytes_per_second", 1e9, "one size")
    speeds.axhline(points[0]["memcpy_bytes_per_second"] / 1e9, linestyle="--", color="gray", label="memcpy")
    _name(costs, "time from packet to packet", "bytes in a packet", "ns", logarithmic=True)
    _name(speeds, "bytes", "bytes in a packet", "GB/s")


_PLOTS: dict[str, Callable[[Any, Rows], None]] = {
    "peers": _ratios,
    "headline": headline.draw,
    "readers": _readers,
    "buffers": _buffers,
    "sizes": _sizes,
}


def _with_spread(
    axes: Any, places: Sequence[float], points: Rows, what: str, unit: float, label: str, line: str = "-"
) -> None:
    """The median, and the smallest and the largest as a bar."""
    middle = [one["medians"][what] / unit for one in points]
    low, high = zip(*(one["spreads"][what] for one in points), strict=True)
    below = [one - least / unit for one, least in zip(middle, low, strict=True)]
    above = [most / unit - one for one, most in zip(middle, high, strict=True)]
    axes.errorbar(places, middle, (below, above), marker="o", linestyle=line, capsize=3, label=label)


def _name(axes: Any, title: str, x: str, y: str, logarithmic: bool = False) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.4)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:.0f}")
    else:
        axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def main(file: Annotated[Path, typer.Argument(metavar="FILE.json", exists=True, dir_okay=False)]) -> None:
    """Draw the plots of a run."""
    try:
        for path in draw(file):
            typer.echo(path)
    except ZbufError as error:
        sys.exit(f"bench: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        sys.exit(f"bench: {file}: {error!r} in it: give the JSON file of a run")


if __name__ == "__main__":
    typer.run(main)
