"""When a dump's files end, and what they are called: the options of tcpdump and dumpcap.

Sources: tcpdump(1) for -C, -G and -W; dumpcap(1) for -a and -b.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import typer

from zbuf.consumer.tools.dump.savefiles import FileLimits, Names, dated_names, numbered_names, one_name, ring_names
from zbuf.shared.cli.options import seconds, whole_number

_C_UNITS = {"": 1_000_000, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_FILESIZE_UNIT = 1000  # dumpcap's kB
_MOST_SECONDS = 1e10


@dataclass(frozen=True)
class Plan:
    """Where a dump's packets go, and when the dump ends."""

    limits: FileLimits
    make_names: Callable[[], Names]
    """Begins with the names from the first one on; each call is for one run."""
    keep: int | None = None
    """How many files the ring keeps; None to keep all."""
    several: bool = False
    """Whether there may be more than one file."""
    stop_packets: int | None = None
    stop_seconds: float | None = None


def make_plan(
    path: str | None,
    *,
    autostop: Sequence[str] = (),
    ring: Sequence[str] = (),
    rotate_size: str | None = None,
    rotate_seconds: float | None = None,
    files: int | None = None,
    clobber: bool = True,
) -> Plan:
    """Make the plan from the options -w, -a, -b, -C, -G, -W and --no-clobber.

    Raises:
        typer.BadParameter: an option has a wrong value, or two options contradict each other.
    """
    stops = _conditions("-a", autostop, ("duration", "filesize", "packets", "files"))
    rings = _conditions("-b", ring, ("duration", "interval", "filesize", "packets", "files"))
    tcpdumps = rotate_size is not None or rotate_seconds is not None
    _check_target(path, several=bool(rings) or tcpdumps, words=[*autostop])
    _check_combination(rings, tcpdumps, files, rotate_size, rotate_seconds)
    if rings:
        return _ring_plan(str(path), rings, stops)
    if tcpdumps:
        return _tcpdump_plan(str(path), stops, rotate_size, rotate_seconds, files, clobber=clobber)
    if "files" in stops:
        raise typer.BadParameter("-a files: needs -b, -C or -G, which make more than one file")
    limits = FileLimits(size=_bytes(stops), files=1)
    return Plan(limits, lambda: one_name(str(path)), None, False, _whole(stops, "packets"), stops.get("duration"))


def _check_target(path: str | None, *, several: bool, words: Sequence[str]) -> None:
    if path == "":
        raise typer.BadParameter("-w '' names no file: give one, or - for standard output")
    if several and path is None:
        raise typer.BadParameter("-b, -C and -G need a file to write: -w FILE")
    if several and path == "-":
        raise typer.BadParameter("standard output is one file: -b, -C and -G need -w FILE")
    if path is None and any(word.startswith(("filesize:", "files:")) for word in words):
        raise typer.BadParameter("-a filesize: and -a files: need a file to write: -w FILE")


def _check_combination(
    rings: dict[str, float], tcpdumps: bool, files: int | None, size: str | None, period: float | None
) -> None:
    if rings and (tcpdumps or files is not None):
        raise typer.BadParameter("-b is dumpcap's way, -C, -G and -W are tcpdump's: choose one")
    if files is not None and not tcpdumps:
        raise typer.BadParameter("-W counts the files of -C or -G: give one of those")
    if files is not None and size is not None and period is not None:
        raise typer.BadParameter("-W with both -C and -G: leave one of them out")


def _ring_plan(path: str, rings: dict[str, float], stops: dict[str, float]) -> Plan:
    if rings.keys() == {"files"}:
        raise typer.BadParameter("-b files: needs another -b, which says when a file ends: filesize: or duration:")
    if "filesize" in stops:
        raise typer.BadParameter("-a filesize: ends a dump of one file: with -b use -b filesize: and -a files:")
    limits = FileLimits(
        size=_bytes(rings),
        packets=_whole(rings, "packets"),
        seconds=rings.get("duration"),
        interval=rings.get("interval"),
        files=_whole(stops, "files"),
    )
    return Plan(
        limits, lambda: ring_names(path), _whole(rings, "files"), True, _whole(stops, "packets"), stops.get("duration")
    )


def _tcpdump_plan(
    path: str,
    stops: dict[str, float],
    size: str | None,
    period: float | None,
    files: int | None,
    *,
    clobber: bool,
) -> Plan:
    if "filesize" in stops:
        raise typer.BadParameter("-a filesize: ends a dump of one file: with -C or -G leave it out")
    if period is not None and time.strftime(path) == path and files != 1:
        raise typer.BadParameter(f"-w {path!r} names one file: with -G put a time into it, such as %Y%m%d-%H%M%S")
    if size is not None and files is not None and not clobber:
        raise typer.BadParameter("-C with -W writes over its own files: leave --no-clobber out")
    last = _whole(stops, "files") if period is None else files or _whole(stops, "files")
    limits = FileLimits(
        size=None if size is None else _millions(size),
        period=None if period is None else min(period, _MOST_SECONDS),
        files=last,
    )

    def make_names() -> Names:
        return dated_names(path) if period is not None else numbered_names(path, files)

    return Plan(limits, make_names, None, True, _whole(stops, "packets"), stops.get("duration"))


# ---- words ----------------------------------------------------------------------------------------------------------


def _conditions(option: str, words: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """Read dumpcap's NAME:VALUE words; each name may be there once."""
    found: dict[str, float] = {}
    for word in words:
        name, colon, value = word.partition(":")
        if not colon or name not in known:
            raise typer.BadParameter(f"{option} {word!r}: it must be one of {', '.join(f'{one}:N' for one in known)}")
        if name in found:
            raise typer.BadParameter(f"{option} {name}: is given twice")
        found[name] = _positive(f"{option} {word!r}", value, whole=name not in ("duration", "interval"))
    return found


def _positive(what: str, value: str, *, whole: bool) -> float:
    try:
        number: float = whole_number(1)(value) if whole else seconds(value)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{what}: {error}") from None
    if not number:
        raise typer.BadParameter(f"{what}: it must be more than 0")
    return number


def _whole(found: dict[str, float], name: str) -> int | None:
    return int(found[name]) if name in found else None


def _bytes(found: dict[str, float]) -> int | None:
    return int(found["filesize"]) * _FILESIZE_UNIT if "filesize" in found else None


def _millions(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)([kmg]?)", text.strip(), re.IGNORECASE)
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"-C {text!r}: it must be millions of bytes, or a number with k, M or G")
    return int(match[1]) * _C_UNITS[match[2].lower()]
