"""Context switches per million packets, of both sides, while they are busy.

Counted: getrusage(2) of each process, from the first packet to the last one, as in bench.readers: one reader, and four,
private and joined. A process makes a voluntary switch when it waits for a packet or for room. It makes an involuntary
one when another process gets its processor, as must happen with five processes on two processors.

There is no peer, and no strace: that would make switches of its own.
"""

from bench import readers
from bench.measure import Row, Session
from bench.series import Series

_CASES = {"1 reader": (1, False), "4 readers": (4, False), "4 joined readers": (4, True)}


def measure(session: Session) -> list[Row]:
    """A row for each side of each case."""
    runs = {name: lambda case=case: readers.run(session, *case) for name, case in _CASES.items()}
    series = Series(session, "switches", runs)
    return [_row(series, name, side) for name in _CASES for side in ("producer", "readers")]


def _row(series: Series, run: str, side: str) -> Row:
    kinds = ("voluntary", "involuntary")
    medians = {kind: series.median(run, f"{side}_{kind}") for kind in kinds}
    spreads = {kind: series.spread(run, f"{side}_{kind}") for kind in kinds}
    return Row(
        f"switches, {run}: {side}",
        f"{medians['voluntary']:.0f} voluntary",
        f"{medians['involuntary']:.0f} involuntary",
        spread=", ".join(f"{low:.0f}..{high:.0f}" for low, high in spreads.values()),
        conditions=series.conditions,
        data={**series.facts(run), "side": side},
    )
