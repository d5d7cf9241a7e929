"""The view of zbuf top: tables of sources, descriptors and readers, fitted to the terminal."""

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from zbuf.consumer.tools import words
from zbuf.consumer.tools.top import cells as cell
from zbuf.consumer.tools.top.cells import ASCII, BLOCKS, Glyphs
from zbuf.consumer.tools.top.fitting import Column, Section, compose
from zbuf.consumer.tools.top.rates import Compared, Rated, RatedDescriptor, is_slow
from zbuf.consumer.tools.top.watch import Seen
from zbuf.shared.control.statistics import InterfaceStatistics, ReaderStatistics
from zbuf.shared.names import process_name
from zbuf.shared.users import user_name

# ---- an update ------------------------------------------------------------------------------------------------------


class Screenful:
    """An update, which fits the terminal's size at the time that it is drawn."""

    def __init__(self, seen: Sequence[Seen], delay_s: float) -> None:
        self._heading = f"{heading(seen)}   every {delay_s:g} s, q quits"
        self._seen = seen

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines for which there is room."""
        glyphs = ASCII if options.ascii_only else BLOCKS
        width, height = options.size
        yield Text("\n", no_wrap=True, overflow="crop", end="").join(
            compose(Text(self._heading, style="bold"), sections(self._seen, glyphs), width, height)
        )


def report(seen: Sequence[Seen]) -> list[Text]:
    """An update as lines of any length, without graphs."""
    return compose(Text(heading(seen), style="bold"), sections(seen))


def json_line(seen: Sequence[Seen]) -> str:
    """An update as one JSON object in ASCII, which a terminal shows as it is."""
    return json.dumps({"time": time.time(), "producers": [_plain(one) for one in seen]}) + "\n"


def heading(seen: Sequence[Seen]) -> str:
    """The time, and the numbers of producers, descriptors and readers."""
    found = [one.found for one in seen if one.found is not None]
    descriptors = [one for each in found for one in each.descriptors]
    readers = sum(len(one.readers) for one in descriptors)
    counts = [_several(len(found), "producer"), _several(len(descriptors), "descriptor"), _several(readers, "reader")]
    return f"{time.strftime('%H:%M:%S')}  {', '.join(counts) if seen else 'no producer runs'}"


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def sections(seen: Sequence[Seen], glyphs: Glyphs | None = None) -> list[Section]:
    """The tables; with bars and sparklines if there are glyphs to draw them."""
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
    Column("Mbit/s", number=True, rank=6),
    Column("drops/s", number=True),
    Column("dropped by kernel", number=True, rank=4),
    Column("by interface", number=True, rank=5),
)


def _sources(seen: Sequence[Seen]) -> Section:
    """A row for each live interface, and for each producer without live interfaces."""
    rows: list[list[Text]] = []
    for one in seen:
        if one.found is None:
            rows.append([cell.text(one.name), cell.bad(one.problem)])
        else:
            rows += _sources_of(one.found)
    return Section("sources", _SOURCES, rows)


def _sources_of(found: Compared) -> list[list[Text]]:
    now = found.now
    own = [cell.text(now.producer), Text(str(now.pid)), Text(words.duration(now.uptime_s))]
    if not now.live:
        none = Text("-")
        return [[*own, cell.text(",".join(now.interfaces)), none, cell.rate(found.rates, "offered"), *[none] * 4]]
    return [[*own, *_interface(one)] for one in found.live]


def _interface(one: Rated[InterfaceStatistics]) -> list[Text]:
    now = one.now
    state = Text(now.state) if now.state == "up" else cell.bad(now.state)
    totals = [cell.number(now.dropped_by_kernel), cell.number(now.dropped_by_interface)]
    return [
        cell.text(now.interface),
        state,
        cell.rate(one.rates, "taken"),
        cell.bits(one.rates, "taken_bytes"),
        cell.drops(one.rates, *_BY_KERNEL),
        *totals,
    ]


_BY_KERNEL = ("dropped_by_kernel", "dropped_by_interface")

_DESCRIPTORS = (
    Column("producer", least=8),
    Column("descriptor", number=True, rank=3),
    Column("group", rank=5),
    Column("filter", rank=4, least=12),
    Column("received/s", number=True, rank=6),
    Column("Mbit/s", number=True, rank=9),
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
    now, share = one.now, cell.fill(one)
    drawn = [] if glyphs is None else [Text(cell.bar(share or 0, glyphs)), Text(cell.sparkline(one.history, glyphs))]
    return [
        cell.text(producer.now.producer),
        Text(str(now.descriptor)),
        cell.text(now.join or "-"),
        cell.text(now.settings.filter or "-"),
        cell.rate(one.rates, "received"),
        cell.bits(one.rates, "received_bytes"),
        *(cell.rate(one.rates, name) for name in ("accepted", "delivered")),
        cell.drops(one.rates, "dropped"),
        cell.number(now.dropped),
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
    Column("drops/s meanwhile", number=True, rank=5),
    Column("", rank=0),
)


def _readers(found: Sequence[Compared]) -> Section:
    """A row for each reader; slow readers come first, the slowest of all at the top."""
    readers = [(each, one, reader) for each in found for one in each.descriptors for reader in one.readers]
    readers.sort(key=lambda row: -row[2].rates.get("stalled", 0))
    return Section("readers", _READERS, [_reader(*row) for row in readers])


def _reader(producer: Compared, descriptor: RatedDescriptor, reader: Rated[ReaderStatistics]) -> list[Text]:
    now = reader.now
    return [
        cell.text(producer.now.producer),
        Text(str(descriptor.now.descriptor)),
        Text(str(now.reader)),
        Text(str(now.pid)),
        cell.text(process_name(now.pid)),
        cell.text("-" if now.user is None else user_name(now.user)),
        cell.rate(reader.rates, "delivered"),
        Text(str(now.holding)),
        cell.number(now.stalls),
        cell.drops(reader.rates, "stalled"),
        cell.bad("slow") if is_slow(reader) else Text(),
    ]
