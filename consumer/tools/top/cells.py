"""How zbuf top writes a value: a rate as a number, a share as a bar, a text so that no terminal obeys it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from zbuf.consumer.tools.top.rates import RatedDescriptor, Rates
from zbuf.shared.names import printable

_BAR_CELLS = 10


@dataclass(frozen=True)
class Glyphs:
    """What sparklines are made of, from the lowest to the highest, and bars, as far as they are full and beyond."""

    levels: str
    full: str
    empty: str


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "█", "░")
ASCII = Glyphs("_.:-=+*#", "#", "-")


def text(text: str) -> Text:
    """A text that a producer or somebody else made up, which a terminal does not obey."""
    return Text(printable(text))


def bad(what: str) -> Text:
    """A text that catches the eye, on a terminal without colours too."""
    return Text(f"! {printable(what)}", style="bold red")


def number(count: int) -> Text:
    """A count, with its thousands apart."""
    return Text(f"{count:,}")


def rate(rates: Rates, name: str) -> Text:
    """One of some rates; "-" if it is not known."""
    return Text(per_second(rates[name]) if name in rates else "-")


def bits(rates: Rates, name: str) -> Text:
    """A rate of bytes, where it is known, in Mbit/s."""
    return Text(f"{rates[name] * 8e-6:,.1f}" if name in rates else "-")


def drops(rates: Rates, *names: str) -> Text:
    """The sum of some rates that should be 0; marked if it is not."""
    lost = sum(rates.get(name, 0) for name in names)
    return bad(per_second(lost)) if lost else Text("0" if rates else "-")


def per_second(rate: float) -> str:
    """A rate; it shows as 0 only if it is exactly 0."""
    if 0 < rate < 0.05:
        return "<0.1"
    return f"{rate:,.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"


def fill(one: RatedDescriptor) -> float | None:
    """How full the two buffers of a descriptor are, from 0 to 1."""
    size = one.now.settings.buffer_bytes
    return min(1.0, one.now.stored_bytes / (2 * size)) if size else None


def bar(share: float, glyphs: Glyphs) -> str:
    """A share of 1 as a bar; there is a cell of it for anything more than 0."""
    full = math.ceil(share * _BAR_CELLS)
    return glyphs.full * full + glyphs.empty * (_BAR_CELLS - full)


def sparkline(history: Sequence[float | None], glyphs: Glyphs) -> str:
    """Rates as a line, the highest at the top; a gap for each update without one."""
    highest = max((rate for rate in history if rate is not None), default=0) or 1
    steps = len(glyphs.levels) - 1
    return "".join(" " if rate is None else glyphs.levels[math.ceil(rate / highest * steps)] for rate in history)
