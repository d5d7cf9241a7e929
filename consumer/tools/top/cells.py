"""How zbuf top writes a value: a rate as a number, a share as a bar, a text without control characters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from zbuf.consumer.tools.top.rates import RatedDescriptor, Rates
from zbuf.shared.names import printable

_BAR_CELLS = 10


@dataclass(frozen=True)
class Glyphs:
    """The characters of sparklines, from the lowest level to the highest, and of the full and empty cells of bars."""

    levels: str
    full: str
    empty: str


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "█", "░")
ASCII = Glyphs("_.:-=+*#", "#", "-")


def text(text: str) -> Text:
    """A text from elsewhere, without characters that a terminal would obey."""
    return Text(printable(text))


def bad(what: str) -> Text:
    """A text that catches the eye, even on a terminal without colours."""
    return Text(f"! {printable(what)}", style="bold red")


def number(count: int) -> Text:
    """A count, with its thousands apart."""
    return Text(f"{count:,}")


def rate(rates: Rates, name: str) -> Text:
    """The rate of one count; "-" if it is not known."""
    return Text(per_second(rates[name]) if name in rates else "-")


def bits(rates: Rates, name: str) -> Text:
    """A rate of bytes, where it is known, in Mbit/s."""
    return Text(f"{rates[name] * 8e-6:,.1f}" if name in rates else "-")


def drops(rates: Rates, *names: str) -> Text:
    """The sum of rates that should be 0; it is marked if it is not 0."""
    lost = sum(rates.get(name, 0) for name in names)
    return bad(per_second(lost)) if lost else Text("0" if rates else "-")


def per_second(rate: float) -> str:
    """A rate as text; only a rate of exactly 0 is shown as 0."""
    if 0 < rate < 0.05:
        return "<0.1"
    return f"{rate:,.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"


def fill(one: RatedDescriptor) -> float | None:
    """How full the two buffers of a descriptor are, from 0 to 1."""
    size = one.now.settings.buffer_bytes
    return min(1.0, one.now.stored_bytes / (2 * size)) if size else None


def bar(share: float, glyphs: Glyphs) -> str:
    """A share from 0 to 1 as a bar; any share above 0 fills at least one cell."""
    full = math.ceil(share * _BAR_CELLS)
    return glyphs.full * full + glyphs.empty * (_BAR_CELLS - full)


def sparkline(history: Sequence[float | None], glyphs: Glyphs) -> str:
    """Rates as a sparkline, in which the highest rate has the highest level; an unknown rate is a gap."""
    highest = max((rate for rate in history if rate is not None), default=0) or 1
    steps = len(glyphs.levels) - 1
    return "".join(" " if rate is None else glyphs.levels[math.ceil(rate / highest * steps)] for rate in history)
