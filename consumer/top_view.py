"""What zbuf top shows: three tables, of the sources, the descriptors and the readers, fitted to the terminal."""

import functools
import json
import math
import pwd
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from zbuf.consumer.top_layout import Column, Section, compose
from zbuf.consumer.top_rates import Compared, Rated, RatedDescriptor, Rates, is_slow
from zbuf.consumer.top_watch import Seen
from zbuf.shared.control import InterfaceStatistics, ReaderStatistics

_BAD = "bold red"
_BAR_CELLS = 10


@dataclass(frozen=True)
class Glyphs:
    """What bars and sparklines are made of: from nothing to a full one, and what is left of a bar."""

    levels: str
    full: str
    empty: str


BLOCKS = Glyphs(" ▁▂▃▄▅▆▇█", "█", "░")
ASCII = Glyphs(" .:-=+*#@", "#", "-")


# ---- an update ------------------------------------------------------------------------------------------------------


class Screenful:
    """An update, as it fits the terminal at the time that it is drawn."""

    def __init__(self, seen: Sequence[Seen], delay_s: float) -> None:
        self._heading = f"{heading(seen)}   every {delay_s:g} s, q quits"
        self._seen = seen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines that there is room for."""
        glyphs = ASCII if options.ascii_only else BLOCKS
        width, height = options.size
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(
            compose(Text(self._heading, style="bold"), sections(self._seen, glyphs), width, height)
        )


def report(seen: Sequence[Seen]) -> list[Text]:
    """An update as lines that are as long as they have to be, with no graphs."""
    return compose(Text(heading(seen), style="bold"), sections(seen))


def json_line(seen: Sequence[Seen]) -> str:
    """An update as one JSON object; ASCII, so that no terminal makes anything of it."""
    return json.dumps({"time": time.time(), "producers": [_plain(one) for one in seen]}) + "\n"


def heading(seen: Sequence[Seen]) -> str:
    """The time, and how much there is to see."""
    found = [one.found for one in seen if one.found is not None]
    descriptors = [one for each in found for one in each.descriptors]
    counts = (
        ("producer", len(found)),
        ("descriptor", len(descriptors)),
        ("reader", sum(len(one.readers) for one in descriptors)),
    )
    what = (
        ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts)
        if seen
        else "no producer runs"
    )
    return f"{time.strftime('%H:%M:%S')}  {what}"


def sections(seen: Sequence[Seen], glyphs: Glyphs | None = None) -> list[Section]:
    """The tables; with glyphs to draw with, also what is drawn."""
    found = [one.found for one in seen if one.found is not None]
    return [_sources(seen), _descriptors(found, glyphs), _readers(found)]


def _plain(seen: Seen) -> dict[str, Any]:
    """A producer's statistics with the rates beside the counts."""
    if seen.found is None:
        return {"producer": seen.name, "problem": seen.problem}
    found = seen.found
    plain = _with_rates(found)
    del plain["type"]
    plain["interval_s"] = found.interval_s
    plain["live"] = [_with_rates(one) for one in found.live]
    plain["descriptors"] = [_plain_descriptor(one) for one in found.descriptors]
    return plain


def _plain_descriptor(one: RatedDescriptor) -> dict[str, Any]:
    readers = [_with_rates(reader) | {"slow": is_slow(reader)} for reader in one.readers]
    return _with_rates(one) | {"readers": readers}


def _with_rates(one: Rated[Any]) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(one.now)
    return plain | {"rates": dict(one.rates)}


# ---- the tables -----------------------------------------------------------------------------------------------------

_SOURCES = (
    Column("producer", least=8),
    Column("pid", rank=2),
    Column("up", rank=3),
    Column("interface"),
    Column("state", rank=1),
    Column("packets/s", number=True),
    Column("drops/s", number=True),
    Column("dropped by kernel", number=True, rank=4),
    Column("by interface", number=True, rank=5),
)


def _sources(seen: Sequence[Seen]) -> Section:
    """A row for each live interface, and one for each producer that has none."""
    rows: list[list[Text]] = []
    for one in seen:
        if one.found is None:
            rows.append([_text(one.name), Text(f"! {printable(one.problem)}", style=_BAD)])
        else:
            rows += _sources_of(one.found)
    return Section("sources", _SOURCES, rows)


def _sources_of(found: Compared) -> list[list[Text]]:
    now = found.now
    own = [_text(now.producer), Text(str(now.pid)), Text(duration(now.uptime_s))]
    if not now.live:
        none = Text("-")
        return [[*own, _text(",".join(now.interfaces)), none, _rate(found.rates, "offered"), none, none, none]]
    return [[*own, *_interface(one)] for one in found.live]


def _interface(one: Rated[InterfaceStatistics]) -> list[Text]:
    now = one.now
    state = Text(now.state) if now.state == "up" else Text(f"! {now.state}", style=_BAD)
    totals = [_number(now.dropped_by_kernel), _number(now.dropped_by_interface)]
    return [_text(now.interface), state, _rate(one.rates, "taken"), _drops(one.rates, *_BY_KERNEL), *totals]


_BY_KERNEL = ("dropped_by_kernel", "dropped_by_interface")

_DESCRIPTORS = (
    Column("producer", least=8),
    Column("descriptor", number=True, rank=3),
    Column("group", rank=5),
    Column("filter", rank=4, least=12),
    Column("received/s", number=True, rank=6),
    Column("accepted/s", number=True),
    Column("delivered/s", number=True, rank=2),
    Column("drops/s", number=True),
    Column("dropped", number=True, rank=1),
    Column("buffer", number=True),
)
_BAR = Column("", rank=7)
_SPARKLINE = Column("accepted", rank=8, least=10, keep_end=True)


def _descriptors(found: Sequence[Compared], glyphs: Glyphs | None) -> Section:
    drawn = [] if glyphs is None else [_BAR, _SPARKLINE]
    rows = [_descriptor(each, one, glyphs) for each in found for one in each.descriptors]
    return Section("descriptors", [*_DESCRIPTORS, *drawn], rows)


def _descriptor(producer: Compared, one: RatedDescriptor, glyphs: Glyphs | None) -> list[Text]:
    now, share = one.now, fill(one)
    drawn = [] if glyphs is None else [Text(bar(share or 0, glyphs)), Text(sparkline(one.history, glyphs))]
    return [
        _text(producer.now.producer),
        Text(str(now.descriptor)),
        _text(now.join or "-"),
        _text(now.settings.filter or "-"),
        *(_rate(one.rates, name) for name in ("received", "accepted", "delivered")),
        _drops(one.rates, "dropped"),
        _number(now.dropped),
        Text("-" if share is None else f"{share:.0%}"),
        *drawn,
    ]


_READERS = (
    Column("producer", least=8),
    Column("descriptor", number=True, rank=2),
    Column("reader", number=True, rank=3),
    Column("pid", number=True),
    Column("process"),
    Column("user", rank=4),
    Column("packets/s", number=True),
    Column("held", number=True),
    Column("stalls", number=True, rank=1),
    Column("drops while it held/s", number=True, rank=5),
    Column("", rank=0),
)


def _readers(found: Sequence[Compared]) -> Section:
    """The slow ones first, and of those the one first that costs the most."""
    readers = [(each, one, reader) for each in found for one in each.descriptors for reader in one.readers]
    readers.sort(key=lambda row: -row[2].rates.get("stalled", 0))
    return Section("readers", _READERS, [_reader(*row) for row in readers])


def _reader(producer: Compared, descriptor: RatedDescriptor, reader: Rated[ReaderStatistics]) -> list[Text]:
    now = reader.now
    return [
        _text(producer.now.producer),
        Text(str(descriptor.now.descriptor)),
        Text(str(now.reader)),
        Text(str(now.pid)),
        _text(process_name(now.pid)),
        _text(_user(now.user)),
        _rate(reader.rates, "delivered"),
        Text(str(now.holding)),
        _number(now.stalls),
        _drops(reader.rates, "stalled"),
        Text("! slow", style=_BAD) if is_slow(reader) else Text(),
    ]


# ---- cells ----------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """The text with whatever a terminal might obey, or hide, written as Python writes it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _text(text: str) -> Text:
    return Text(printable(text))


def _number(count: int) -> Text:
    return Text(f"{count:,}")


def _rate(rates: Rates, name: str) -> Text:
    return Text(per_second(rates[name]) if name in rates else "-")


def _drops(rates: Rates, *names: str) -> Text:
    """The sum of some rates that had better be 0."""
    lost = sum(rates.get(name, 0) for name in names)
    return Text(f"! {per_second(lost)}", style=_BAD) if lost else Text("0" if rates else "-")


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
    top = len(glyphs.levels) - 1
    return "".join(
        " " if rate is None else glyphs.levels[math.ceil(rate / highest * (top - 1)) + 1] for rate in history
    )


def process_name(pid: int) -> str:
    """What a process is called, where that can be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").rstrip("\n")
    except OSError:
        return "-"


@functools.cache
def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return str(number)
