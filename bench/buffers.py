"""Which buffer size is fastest.

Timed: Buffer.index() of every buffer, as in bench.index, with buffers of several sizes. A small buffer stays in the
processors' caches, but is handed over so often that this costs; a large one is fetched from memory. If /dev/shm has no
room for two buffers of a size, the size is left out, and its row says so.
"""

import os

from bench import pipeline
from bench.captures import Capture
from bench.index import index
from bench.measure import Row, Session
from bench.series import Outcome, Series

_SIZES = {
    "64 KiB": 64 << 10,
    "256 KiB": 256 << 10,
    "1 MiB": 1 << 20,
    "4 MiB": 4 << 20,
    "16 MiB": 16 << 20,
    "64 MiB": 64 << 20,
}
_PACKETS = 24_000_000
_MEMORY = "/dev/shm"  # noqa: S108  (where posix_ipc's segments are)


def measure(session: Session) -> list[Row]:
    """A row for each size."""
    room = _room_bytes()
    sizes = {name: _SIZES[name] for name in session.selected(list(_SIZES))}
    fitting = {name: size for name, size in sizes.items() if 2 * size < room}
    rows = [
        Row(f"buffers, {name}", f"no room: {_MEMORY} has {room >> 20} MiB") for name in sizes if name not in fitting
    ]
    if not fitting:
        return rows
    runs = {name: lambda size=size: _run(session, session.capture, size) for name, size in fitting.items()}
    series = Series(session, "buffers", runs)
    return [*(_row(series, name, size) for name, size in fitting.items()), *rows]


def _room_bytes() -> int:
    found = os.statvfs(_MEMORY)
    return found.f_bavail * found.f_frsize


def _run(session: Session, capture: Capture, size: int) -> Outcome:
    loops = capture.loops(session.scaled(_PACKETS))
    rate = pipeline.packets_per_second(*pipeline.run(capture, loops, index, buffer_bytes=size))
    return {"packets_per_second": rate, "bytes_per_second": rate * capture.captured_bytes / capture.packets}


def _row(series: Series, run: str, size: int) -> Row:
    rate, speed = (series.median(run, f"{what}_per_second") for what in ("packets", "bytes"))
    told = f"{rate / 1e6:.1f} M/s, {speed / 1e9:.2f} GB/s"
    return series.row(run, "packets_per_second", told, buffer_bytes=size)
