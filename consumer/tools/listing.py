"""zbuf ls and zbuf stats: which captures run, and what became of every packet."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import msgspec

from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.tools.words import duration, named_or_only
from zbuf.shared.cli.options import Json, OnlyProducer, RunDir
from zbuf.shared.cli.tables import print_ledgers, print_table
from zbuf.shared.control.rundir import every_directory
from zbuf.shared.control.rundir_look import Running, possible_names, reach
from zbuf.shared.control.statistics import Statistics
from zbuf.shared.errors import ControlError, RunDirectoryError
from zbuf.shared.names import linktypes_of, printable
from zbuf.shared.users import user_name

_ANSWER_S = 2.0
"""How long zbuf ls waits for a producer, all of which it asks at once: a busy capture answers within milliseconds."""

_PRODUCERS = ("name", "pid", "user", "up", "interfaces", "descriptors", "readers", "offered", "dropped")
_INTERFACES = (
    "interface",
    "engine",
    "state",
    "received",
    "taken",
    "taken bytes",
    "dropped by kernel",
    "by interface",
    "times lost",
)
_READERS = ("reader", "descriptor", "pid", "user", "delivered", "buffers held", "stalls", "dropped meanwhile")


def ls(run_dir: RunDir = None, json: Json = False) -> None:
    """List the producers that run, also those of other users, as far as this user can see them."""
    directories = every_directory(run_dir)
    found, problems = _look_into(directories)
    if json:
        _print_json([_plain_listed(one) for one in found])
    elif found:
        several = len({one.place.directory for one in found}) > 1
        columns = [*_PRODUCERS, "directory"] if several else _PRODUCERS
        print_table("", columns, [_row(one)[: len(columns)] for one in found])
    elif not problems:
        sys.stderr.write(f"zbuf: no producer runs in {' or '.join(printable(str(one)) for one in directories)}\n")
    for problem in problems:
        sys.stderr.write(f"zbuf: {printable(problem)}\n")


def stats(
    name: OnlyProducer = None,
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Print what became of every packet, for each descriptor of a capture."""
    with Connection(named_or_only(name, run_dir), run_dir) as connection:
        found = connection.stats()
    if json:
        _print_json(_plain(found))
    else:
        _print_for_people(found)


def _print_for_people(found: Statistics) -> None:
    sys.stdout.write(
        f"{found.producer}: pid {found.pid}, up {duration(found.uptime_s)}, link-type {linktypes_of(found.linktypes)}, "
        f"{printable(', '.join(found.interfaces))}: {found.offered:,} packets offered\n"
    )
    if found.live:
        print_table("", _INTERFACES, _interfaces(found))
    print_ledgers(found.descriptors, found.closed)
    readers = _readers(found)
    if readers:
        print_table("", _READERS, readers)
    else:
        sys.stdout.write("no reader is connected\n")


# ---- asking all producers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """A producer that lives, and what it says of itself, or why it says nothing."""

    place: Running
    statistics: Statistics | None = None
    problem: str = ""


def _look_into(directories: Sequence[Path]) -> tuple[list[_Listed], list[str]]:
    """All producers that live, by name, and what is wrong with directories that can't be read."""
    found: list[_Listed] = []
    problems: list[str] = []
    asking: list[Thread] = []
    for directory in directories:
        try:
            names = possible_names(directory)
        except RunDirectoryError as error:
            problems.append(str(error))
            continue
        asking += [Thread(target=_ask, args=(directory, name, found), daemon=True) for name in names]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    return sorted(found, key=lambda one: (one.place.name, str(one.place.directory))), problems


def _ask(directory: Path, name: str, found: list[_Listed]) -> None:
    """Add a producer to those that were found, if it lives."""
    place, connected = reach(directory, name, _ANSWER_S)
    if connected is None:
        if place is not None:
            problem = "no permission" if place.state == "closed" else "no answer"
            found.append(_Listed(place, problem=problem))
        return
    with Connection.over(name, connected) as connection:
        if place is None:
            return
        try:
            statistics = connection.stats()
            if not isinstance(statistics, Statistics):
                raise ControlError("answered something else: is this a zbuf producer, and of the same version?")
            found.append(_Listed(place, statistics))
        except (ControlError, OSError) as error:
            if reach(directory, name, 0)[0] is not None:  # it has not ended meanwhile
                found.append(_Listed(place, problem=str(error)))


# ---- rows -----------------------------------------------------------------------------------------------------------


def _row(one: _Listed) -> list[str | int]:
    now = one.statistics
    directory = str(one.place.directory)
    if now is None:
        return [one.place.name, "-", user_name(one.place.owner), one.problem, *["-"] * 5, directory]
    return [
        one.place.name,
        str(now.pid),
        user_name(one.place.owner),
        duration(now.uptime_s),
        ",".join(now.interfaces),
        len(now.descriptors),
        sum(len(descriptor.readers) for descriptor in now.descriptors),
        now.offered,
        sum(descriptor.dropped for descriptor in now.descriptors) + now.closed.dropped,
        directory,
    ]


def _interfaces(found: Statistics) -> list[list[str | int]]:
    return [
        [
            one.interface,
            one.engine,
            one.state,
            one.received,
            one.taken,
            one.taken_bytes,
            one.dropped_by_kernel,
            one.dropped_by_interface,
            one.lost,
        ]
        for one in found.live
    ]


def _readers(found: Statistics) -> list[list[str | int]]:
    return [
        [
            r.reader,
            d.descriptor,
            str(r.pid),
            "-" if r.user is None else user_name(r.user),
            r.delivered,
            r.holding,
            r.stalls,
            r.stalled,
        ]
        for d in found.descriptors
        for r in d.readers
    ]


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _plain_listed(one: _Listed) -> dict[str, object]:
    own: dict[str, object] = {"producer": one.place.name, "problem": one.problem}
    if one.statistics is not None:
        own = _plain(one.statistics)
    return own | {"user": user_name(one.place.owner), "directory": str(one.place.directory)}


def _plain(statistics: Statistics) -> dict[str, object]:
    """The statistics as a dict, without the message's type."""
    plain: dict[str, object] = msgspec.to_builtins(statistics)
    del plain["type"]
    return plain


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
