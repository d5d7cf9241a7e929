"""What a descriptor costs, and what a reader costs.

Timed: the pump, from the first packet to the last acknowledgement, lossless, with 1 to 16 reading processes that walk
every block's header; once each with a descriptor of its own, and once all joined to one. The rows have the packets
offered per second, and the processor time that a packet takes in the producer and in all readers together, with the
time that they spend on waiting for each other.

The lines: nanoseconds per packet = one descriptor with one reader + each further descriptor + each further reader. A
further reader with a descriptor of its own is both.
"""

from bench import pipeline
from bench.measure import Row, Session
from bench.ring import walk, walk_joined
from bench.series import Outcome, Series

_COUNTS = (1, 2, 4, 8, 16)
_PACKETS = 24_000_000
"""Packets to offer by the number of readers, so that all runs take about as long."""
_TERMS = ("per packet", "per further descriptor", "per further reader")


def measure(session: Session) -> list[Row]:
    """A row for each number of readers, private and joined, and the rows of the lines."""
    counts = session.selected(_COUNTS)
    cases = {f"{count} {kind}": (count, kind == "joined") for kind in ("private", "joined") for count in counts}
    runs = {name: lambda case=case: run(session, *case) for name, case in cases.items()}
    series = Series(session, "readers", runs)
    points = {name: (1.0, 0.0 if joined else count - 1.0, count - 1.0) for name, (count, joined) in cases.items()}
    return [
        *(_row(series, name, *case) for name, case in cases.items()),
        *series.line("producer_ns", "producer, ", _TERMS, points),
        *series.line("readers_ns", "all readers, ", _TERMS, points),
    ]


def run(session: Session, count: int, joined: bool) -> Outcome:
    """One run with so many readers; context switches are counted per million packets."""
    loops = session.capture.loops(session.scaled(_PACKETS) // count)
    produced, taken = pipeline.run_all(session.capture, loops, [walk_joined if joined else walk] * count)
    packets = produced["packets"]
    both = {"producer": [produced], "readers": taken}
    return {"packets_per_second": pipeline.packets_per_second(produced)} | {
        f"{side}_{what}": sum(one[key] for one in times) / packets * factor
        for side, times in both.items()
        for what, key, factor in (
            ("ns", "cpu_s", 1e9),
            ("voluntary", "voluntary", 1e6),
            ("involuntary", "involuntary", 1e6),
        )
    }


def _row(series: Series, run: str, count: int, joined: bool) -> Row:
    rate, producer_ns, readers_ns = (
        series.median(run, what) for what in ("packets_per_second", "producer_ns", "readers_ns")
    )
    return series.row(
        run,
        "packets_per_second",
        f"{rate / 1e6:.1f} M/s",
        f"producer {producer_ns:.1f} ns, readers {readers_ns:.1f} ns",
        descriptors=1 if joined else count,
        readers=count,
        joined=joined,
    )
