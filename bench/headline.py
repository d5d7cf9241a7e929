"""The picture on the README's first screen: how zbuf compares with the fastest peer at four common jobs.

``python -m bench.headline docs/performance.md docs/pictures/ratios.svg`` draws it from the tables of a page. A run of
the benchmark that measured these jobs draws it, too: see bench.plots.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.tables import Row, rows_of
from zbuf.shared.cli.plot import new_figure, svg

_JOBS: Mapping[tuple[str, str], str] = {
    ("for packet in reader", "pcapy-ng loop_to_buffer"): "a Python loop over packets\nagainst pcapy-ng, from a file",
    ("buffer.index()", "pcap_loop in C"): "a NumPy index of all packets\nagainst pcap_loop() in C, from a file",
    ("zbuf iterate, 64 bytes", "Pipe, 64 pickled"): "small packets to another process\nagainst a Pipe, 64 in a message",
    (
        "zbuf dump -w: packets / processor second",
        "tcpdump -r -w",
    ): "writing a capture file\nagainst tcpdump, processor time",
}
"""By measure and the beginning of the peer's name: what the picture calls them."""

_LONG, _HIGH = 9.0, 3.2  # inches


def jobs(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The rows that the picture shows, and their names in it; a run that measured only some of them has fewer."""
    return [
        (called, row)
        for (measure, peer), called in _JOBS.items()
        for row in rows
        if row["measure"] == measure and str(row["peer"]).startswith(peer) and row["ratio"]
    ]


def draw(figure: Any, rows: Sequence[Row]) -> None:
    """Draw a bar for each job: the median ratio, and the smallest and the largest as a line."""
    figure.set_size_inches(_LONG, _HIGH)
    axes = figure.add_subplot()
    shown = jobs(rows)
    ratios = [float(row["ratio"]) for _, row in shown]
    spreads = [tuple(map(float, row["spread"].split(".."))) for _, row in shown]
    below = [ratio - low for ratio, (low, _) in zip(ratios, spreads, strict=True)]
    above = [high - ratio for ratio, (_, high) in zip(ratios, spreads, strict=True)]
    axes.barh(range(len(shown)), ratios, xerr=(below, above), color="tab:green", ecolor="black", capsize=3)
    for place, (ratio, (_, high)) in enumerate(zip(ratios, spreads, strict=True)):
        axes.annotate(f"{ratio:.1f}", (high, place), (6, 0), textcoords="offset points", va="center", weight="bold")
    axes.set_yticks(range(len(shown)), [called for called, _ in shown], fontsize="small")
    axes.axvline(1, color="tab:red")
    axes.set(title="zbuf beside the fastest peer measured", xlabel="times as fast; the red line is the peer")
    axes.margins(x=0.1)
    axes.invert_yaxis()


def main(
    page: Annotated[Path, typer.Argument(metavar="PAGE.md", help="The page whose tables have the numbers.")],
    picture: Annotated[Path, typer.Argument(metavar="FILE.svg", help="The picture to write.")],
) -> None:
    """Draw the README's picture from the tables of a page."""
    try:
        rows = rows_of(page.read_text())
        if not jobs(rows):
            sys.exit(f"bench.headline: {page}: its tables have none of the jobs to draw")
        figure = new_figure()
        draw(figure, rows)
        picture.write_text(svg(figure))
    except OSError as error:
        sys.exit(f"bench.headline: {error.filename}: {error.strerror}")


if __name__ == "__main__":
    typer.run(main)
