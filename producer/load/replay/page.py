"""The report of a replay as one HTML page: tables and plots, with nothing to load from elsewhere."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from zbuf import __version__
from zbuf.producer.load.replay.report import Report
from zbuf.shared.cli.plot import new_figure, svg
from zbuf.shared.control.statistics import PACKET_COUNTS
from zbuf.shared.errors import ZbufError
from zbuf.shared.names import printable

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
svg { max-width: 100%; height: auto }
.bad { color: #b00 }
"""


def write_page(report: Report, path: str) -> None:
    """Write the page of a report to a file.

    Raises:
        ZbufError: the file can't be written.
    """
    try:
        Path(path).write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise ZbufError(f"--report {path}: {error.strerror}") from None


def escape(text: str) -> str:
    """A text from elsewhere, such as a file's name: in HTML, and without control characters."""
    return html.escape(printable(text))


def page(report: Report) -> str:
    """The page as HTML; text from elsewhere, such as file names, is escaped."""
    title = f"Replay of {', '.join(report.files)}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(report.began)}, producer {escape(report.statistics.producer)}, zbuf {escape(__version__)}</p>",
        f"<p><code>{escape(report.command)}</code></p>",
        *_result(report),
        *_over_time(report),
        *_pacing(report),
        *_latency(report),
        *_descriptors(report),
        *_files(report),
        "<h2>Machine</h2>",
        _pairs(report.machine),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>\n{_STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# ---- sections ---------------------------------------------------------------------------------------------------


def _result(report: Report) -> list[str]:
    dropped = sum(one.dropped for one in report.statistics.descriptors)
    rows = {
        "packets offered": report.packets,
        "seconds": report.seconds,
        "packets per second": report.packets_per_second,
        "descriptors": len(report.statistics.descriptors),
        "packets dropped, of all descriptors": dropped,
    }
    warnings = [f'<p class="bad">{escape(warning)}</p>' for warning in report.warnings]
    reason = None if report.pacing is None else report.pacing.reason
    not_held = [f'<p class="bad">Not held: {escape(reason)}</p>'] if reason else []
    return ["<h2>Result</h2>", *not_held, _pairs(rows), *warnings]


def _over_time(report: Report) -> list[str]:
    if len(report.rates) < 2:
        return []
    figure = new_figure()
    axes = figure.add_subplot()
    axes.plot([when for when, _ in report.rates], [rate for _, rate in report.rates])
    axes.set(xlabel="seconds", ylabel="packets per second", ylim=(0, None))
    axes.grid(visible=True, alpha=0.4)
    return ["<h2>Rate over time</h2>", svg(figure), *_drops_and_lag(report)]


def _drops_and_lag(report: Report) -> list[str]:
    if len(report.over_time) < 2:
        return []
    heads = ["second", "offered", "dropped", "late", "lag p99, µs", "lag max, µs"]
    rows = [
        [one.until_s, one.offered, one.dropped, one.late, one.lag_p99_us, one.lag_max_us] for one in report.over_time
    ]
    return ["<h2>Drops and lag over time</h2>", _table(heads, rows)]


def _pacing(report: Report) -> list[str]:
    one = report.pacing
    if one is None:
        return []
    rows: dict[str, Any] = {
        "asked": one.asked,
        "achieved, packets per second": one.achieved_pps,
        "achieved, Mbit/s on the wire": one.achieved_mbps,
        "deviation": "-" if one.deviation is None else f"{100 * one.deviation:+.5f} %",
        **{f"lag {name}, µs": value for name, value in one.lag_us.items()},
        f"packets over {one.max_lag_ms:g} ms late": one.behind,
    }
    return ["<h2>Schedule</h2>", _pairs(rows), *_lag_plot(report.lags)]


def _lag_plot(lags: Sequence[tuple[int, int]]) -> list[str]:
    if len(lags) < 2:
        return []
    packets, so_far = sum(count for _, count in lags), 0
    above = []
    for lag_ns, count in lags:
        so_far += count
        above.append((lag_ns / 1000, 100 * (packets - so_far) / packets))
    figure = new_figure()
    axes = figure.add_subplot()
    axes.step([lag for lag, _ in above], [max(share, 50 / packets) for _, share in above], where="post")
    axes.set(xlabel="lag, µs", ylabel="% of packets that were later", xscale="log", yscale="log")
    axes.grid(visible=True, alpha=0.4)
    return [svg(figure)]


def _latency(report: Report) -> list[str]:
    if not report.latency_us:
        return []
    return ["<h2>Latency of a reader, µs</h2>", _table(list(report.latency_us), [list(report.latency_us.values())])]


def _descriptors(report: Report) -> list[str]:
    counts = [*PACKET_COUNTS, "received_bytes", "dropped_bytes"]
    rows = [
        [
            f"{one.descriptor}" + (f" ({one.join})" if one.join else ""),
            ", ".join(map(str, report.processes.get(one.descriptor, []))) or "-",
            one.settings.filter or "-",
            *(getattr(one, count) for count in counts),
        ]
        for one in report.statistics.descriptors
    ]
    if not rows:
        return ["<h2>Descriptors</h2>", "<p>no reader was connected</p>"]
    return [
        "<h2>Descriptors</h2>",
        _table(["descriptor", "readers", "filter", *(count.replace("_", " ") for count in counts)], rows),
    ]


def _files(report: Report) -> list[str]:
    heading = ["<h2>Packets of the files</h2>", _table(["file"], [[name] for name in report.files])]
    if report.sizes is None or not report.sizes.packets:
        return heading
    sizes = report.sizes.named()
    figure = new_figure()
    axes = figure.add_subplot()
    axes.bar(list(sizes), list(sizes.values()))
    axes.set(xlabel="bytes on the wire", ylabel="packets")
    axes.grid(visible=True, axis="y", alpha=0.4)
    mean = report.sizes.wire_bytes / report.sizes.packets
    totals = {"packets": report.sizes.packets, "bytes on the wire": report.sizes.wire_bytes, "mean bytes": mean}
    return [*heading, _pairs(totals), _table(list(sizes), [list(sizes.values())]), svg(figure)]


# ---- tables -----------------------------------------------------------------------------------------------------


def _pairs(rows: Any) -> str:
    return _table([], [[name.replace("_", " "), value] for name, value in rows.items()])


def _table(heads: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}\n{body}\n</table>"


def _cell(value: Any) -> str:
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    if isinstance(value, float):
        return f'<td class="number">{value:,.3f}</td>'
    if isinstance(value, tuple):
        return f'<td class="number">{", ".join(f"{one:g}" for one in value)}</td>'
    return f"<td>{escape(str(value))}</td>"
