"""zbuf salvage: what killed producers left unread, listed or written to files."""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import typer

from zbuf.shared.cli.tables import print_table
from zbuf.shared.errors import SegmentError, ZbufError
from zbuf.shared.memory.leftovers import Found, find_segments
from zbuf.shared.memory.salvage import Salvaged, salvage
from zbuf.shared.names import check_name, encodable
from zbuf.shared.users import user_name


def list_remains(*, json: bool) -> None:
    """Print what there is to be salvaged, of all producers."""
    found = list(find_segments())
    left = [one for one in found if one.state == "left"]
    if json:
        _print_json(sys.stdout, [_plain(one) for one in left])
    elif left:
        columns = ["name", "descriptor", "packets unread", "bytes", "owner", "damage"]
        rows = [
            [o.producer, str(o.descriptor), o.packets, o.length_bytes, user_name(o.owner), o.damage or "-"]
            for o in left
        ]
        print_table("", columns, rows)
    _tell_foreign(found)
    if not left and not json:
        sys.stderr.write("zbuf: no killed producer left anything behind\n")


def salvage_to_files(name: str, path: str, *, descriptor: int | None, remove: bool, json: bool) -> None:
    """Write what is left of the producer `name`, each descriptor to a file of its own, and say what was written.

    Raises:
        ZbufError: nothing is there to be written, or a file can't be.
        typer.Exit: a segment could not be read, and that was said; the others were written.
    """
    found = list(find_segments(check_name(name)))
    wanted = _choose(name, found, descriptor)
    written: list[Salvaged] = []
    try:
        for one, file in zip(wanted, _files(path, wanted), strict=True):
            written += _salvage_one(one, file, remove=remove, told=not json)
    finally:  # a disk that fills up takes nothing from what was written before
        if json:
            _print_json(_report_to(path), [_plain(one) for one in written])
    _tell_foreign(found)
    if len(written) < len(wanted):
        raise typer.Exit(1)


def _salvage_one(found: Found, path: str, *, remove: bool, told: bool) -> list[Salvaged]:
    try:
        salvaged = salvage(found, path, remove=remove)
    except SegmentError as error:
        sys.stderr.write(f"zbuf: {error}\n")
        return []
    if told:
        _print_written(salvaged)
    if salvaged.left_out_bytes:
        sys.stderr.write(
            f"zbuf: {found.path} is damaged, and is kept: "
            f"{salvaged.left_out_bytes} bytes from the damage on are left out\n"
        )
    return [salvaged]


def _choose(name: str, found: Sequence[Found], descriptor: int | None) -> list[Found]:
    """Those with something to write in them, and those of which nothing can be read, which is to be told."""
    left = [one for one in found if one.state == "left"]
    wanted = [one for one in left if descriptor in (None, one.descriptor) and (one.packets > 0 or one.damage)]
    if wanted:
        return wanted
    if descriptor is not None and left:
        raise ZbufError(f"descriptor {descriptor} of {name!r} left nothing: zbuf salvage lists what there is")
    if left:
        raise ZbufError(f"producer {name!r} left no packet that was not acknowledged")
    if any(one.state == "alive" for one in found):
        raise ZbufError(f"producer {name!r} is alive: read its packets with zbuf dump {name}")
    for one in found:
        raise ZbufError(_foreign(one))
    raise ZbufError(f"no killed producer {name!r} left anything behind: zbuf salvage lists what there is")


def _files(path: str, wanted: Sequence[Found]) -> list[str]:
    """A file for each; one of which nothing can be read gets none, whatever is said here."""
    numbers = [str(one.descriptor) for one in wanted if one.packets]
    if len(numbers) <= 1:
        return [path] * len(wanted)
    if path == "-":
        raise typer.BadParameter(f"-w - takes one descriptor: choose with --descriptor from {', '.join(numbers)}")
    stem, suffix = os.path.splitext(path)
    return [f"{stem}.{one.descriptor}{suffix}" for one in wanted]


def _foreign(found: Found) -> str:
    user = user_name(found.owner)
    return f"{found.path} belongs to user {user}: salvage it as {user} or as root"


def _tell_foreign(found: Sequence[Found]) -> None:
    for one in found:
        if one.state == "foreign":
            sys.stderr.write(f"zbuf: {_foreign(one)}\n")


def _print_written(one: Salvaged) -> None:
    """A line for a file; its packets may be on stdout."""
    span = "" if one.first_ns is None or one.last_ns is None else f", {_time(one.first_ns)} to {_time(one.last_ns)} UTC"
    where = "standard output" if one.path == "-" else encodable(one.path)
    packets = f"{one.packets:,} packet{'' if one.packets == 1 else 's'}"
    _report_to(one.path).write(f"{where}: {packets} of descriptor {one.descriptor}{span}\n")


def _time(time_ns: int) -> str:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}"


def _report_to(path: str) -> Any:
    return sys.stderr if path == "-" else sys.stdout


def _plain(one: Found | Salvaged) -> dict[str, object]:
    plain: dict[str, object] = msgspec.to_builtins(one)
    if isinstance(one, Salvaged):
        return plain | {"path": encodable(one.path)}
    del plain["state"]
    return plain | {"owner": user_name(one.owner)}


def _print_json(stream: Any, plain: list[dict[str, object]]) -> None:
    stream.write(msgspec.json.format(msgspec.json.encode(plain)).decode() + "\n")
