"""How zbuf top writes a value: a rate, a name that a producer made up, a share as a bar."""

import functools
import math
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.text import Text

from zbuf.consumer.top.rates import RatedDescriptor, Rates

_BAR_CELLS = 10


@dataclass(frozen=True)
class Glyphs:
    """What sparklines are made of, from the lowest to the highest, and bars, as far as they are full and beyond."""

    levels: str
    full: str
    empty: str


BLOCKS = Glyphs("▁▂▃▄▅▆▇█", "█", "░")
ASCII = Glyphs("_.:-=+*#", "#", "-")


def printable(text: str) -> str:
    """The text with whatever a terminal might obey, or hide, written as Python writes it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def text(text: str) -> Text:
    """Text that a producer, or somebody else, made up."""
    return Text(printable(text))


def bad(what: str) -> Text:
    """What is to be seen at once, colours or none."""
    return Text(f"! {printable(what)}", style="bold red")


def number(count: int) -> Text:
    """A count, with its thousands apart."""
    return Text(f"{count:,}")


def rate(rates: Rates, name: str) -> Text:
    """One of some rates, where it is known."""
    return Text(per_second(rates[name]) if name in rates else "-")


def drops(rates: Rates, *names: str) -> Text:
    """The sum of some rates that had better be 0."""
    lost = sum(rates.get(name, 0) for name in names)
    return bad(per_second(lost)) if lost else Text("0" if rates else "-")


def per_second(rate: float) -> str:
    """A rate, that shows as 0 only where it is."""
    if 0 < rate < 0.05:
        return "<0.1"
    return f"{rate:,.0f}" if rate >= 10 or rate == int(rate) else f"{rate:.1f}"


def duration(seconds: float) -> str:
    """As long as something has run, as ps(1) writes it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


def fill(one: RatedDescriptor) -> float | None:
    """How full the two buffers of a descriptor are, from 0 to 1."""
    size = one.now.settings.buffer_bytes
    return min(1.0, one.now.buffered_bytes / (2 * size)) if size else None


def bar(share: float, glyphs: Glyphs) -> str:
    """A share of 1 as a bar; there is a cell of it for anything more than 0."""
    full = math.ceil(share * _BAR_CELLS)
    return glyphs.full * full + glyphs.empty * (_BAR_CELLS - full)


def sparkline(history: Sequence[float | None], glyphs: Glyphs) -> str:
    """Rates as a line, the highest at the top; a gap where there is none."""
    highest = max((rate for rate in history if rate is not None), default=0) or 1
    steps = len(glyphs.levels) - 1
    return "".join(" " if rate is None else glyphs.levels[math.ceil(rate / highest * steps)] for rate in history)


def process_name(pid: int) -> str:
    """What a process is called, where that can be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").rstrip("\n")
    except OSError:
        return "-"


@functools.cache
def user_name(number: int) -> str:
    """A user, by name where it has one; asked once, since it may be a directory server that knows."""
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return str(number)
