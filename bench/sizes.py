"""What a packet costs, and what a byte costs.

Timed: as in bench.ring, the pump from the first packet to the last acknowledgement, while a reader walks every block's
header; for packets of one size each, and for the capture, whose sizes are mixed.

Beside each is memcpy(), see bench.memory: the ratio is the share of its bytes per second. The packets' bytes count, and
not those of their blocks. The line goes through the sizes, and not through the capture: nanoseconds from packet to
packet = one packet's + bytes * one byte's.
"""

import tempfile
from pathlib import Path

from bench import memory, pipeline
from bench.captures import Capture, one_size
from bench.measure import Row, Session
from bench.ring import walk
from bench.series import Outcome, Series

_SIZES = (64, 128, 256, 512, 1024, 1514, 9000)
_BYTES = 8 << 30
_MOST_PACKETS = 30_000_000
_MIX, _MEMCPY = "mixed", "memcpy"


def measure(session: Session) -> list[Row]:
    """A row for each size, one for the capture, and the rows of the line."""
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        sizes = session.selected(_SIZES)
        captures = {f"{size} bytes": one_size(Path(directory), size) for size in sizes} | {_MIX: session.capture}
        runs = {name: lambda capture=capture: _run(session, capture) for name, capture in captures.items()}
        series = Series(session, "sizes", runs | {_MEMCPY: lambda: _memcpy(session)})
    points = {f"{size} bytes": (1.0, float(size)) for size in sizes}
    return [
        *(_row(series, name, _bytes_each(capture)) for name, capture in captures.items()),
        *series.line("ns", "", ("per packet", "per byte"), points),
    ]


def _run(session: Session, capture: Capture) -> Outcome:
    size = _bytes_each(capture)
    loops = capture.loops(session.scaled(int(min(_MOST_PACKETS, _BYTES / size))))
    produced, _ = pipeline.run(capture, loops, walk)
    rate = pipeline.packets_per_second(produced)
    return {"packets_per_second": rate, "bytes_per_second": rate * size, "ns": 1e9 / rate}


def _memcpy(session: Session) -> Outcome:
    return {"bytes_per_second": memory.bytes_per_second(session)}


def _bytes_each(capture: Capture) -> float:
    return capture.captured_bytes / capture.packets


def _row(series: Series, run: str, packet_bytes: float) -> Row:
    rate, speed = (series.median(run, f"{what}_per_second") for what in ("packets", "bytes"))
    limit = series.median(_MEMCPY, "bytes_per_second")
    return series.row(
        run,
        "packets_per_second",
        f"{rate / 1e6:.1f} M/s, {speed / 1e9:.2f} GB/s",
        f"{_MEMCPY} {limit / 1e9:.2f} GB/s",
        series.ratios(run, _MEMCPY, "bytes_per_second"),
        packet_bytes=packet_bytes,
        mixed=run == _MIX,
        memcpy_bytes_per_second=limit,
    )
