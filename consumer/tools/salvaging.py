"""zbuf salvage: what killed producers left unread, listed or written to files."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from zbuf.shared.cli.options import Json, whole_number
from zbuf.shared.cli.tables import print_table
from zbuf.shared.errors import SegmentError, ZbufError
from zbuf.shared.memory.leftovers import Found, find_segments
from zbuf.shared.memory.salvage import Salvaged, salvage_all
from zbuf.shared.memory.salvage import salvage as write_segment
from zbuf.shared.names import check_name, encodable, printable
from zbuf.shared.users import user_name


def salvage(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The killed producer; without it, list what there is.")
    ] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write to new files in DIR what your killed producers, or NAME alone, left."),
    ] = None,
    descriptor: Annotated[
        int | None, typer.Option(parser=whole_number(0), metavar="N", help="Write this descriptor alone.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the segments once they are written.")] = False,
    json: Json = False,
) -> None:
    """Write what the readers of a killed producer had not acknowledged, each descriptor to a file of its own."""
    if into is not None:
        if write is not None or descriptor is not None:
            raise typer.BadParameter("--into names the files by itself: leave out -w and --descriptor")
        salvage_into(into, name, remove=remove, json=json)
        return
    if name is None:
        if write is not None or descriptor is not None or remove:
            raise typer.BadParameter("say whose packets to salvage: zbuf salvage lists the names")
        list_remains(json=json)
        return
    if write is None:
        raise typer.BadParameter(f"say where to write what is left of {name!r}: -w FILE")
    if remove and write == "-":
        raise typer.BadParameter("--remove needs a file: nobody can tell what became of standard output")
    salvage_to_files(name, write, descriptor=descriptor, remove=remove, json=json)


def list_remains(*, json: bool) -> None:
    """Print what can be salvaged of all producers."""
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
        ZbufError: there is nothing to write, or a file can't be written.
        typer.Exit: a segment could not be read, which was said; the others were written.
    """
    found = list(find_segments(check_name(name)))
    wanted = _choose(name, found, descriptor)
    written: list[Salvaged] = []
    try:
        for one, file in zip(wanted, _files(path, wanted), strict=True):
            written += _salvage_one(one, file, remove=remove, told=not json)
    finally:  # also if the disk is full: what was written before is told
        if json:
            _print_json(_report_to(path), [_plain(one) for one in written])
    _tell_foreign(found)
    if len(written) < len(wanted):
        raise typer.Exit(1)


def salvage_into(directory: str, name: str | None, *, remove: bool, json: bool) -> None:
    """Write what this user's killed producers, or those of one name, left to new files, and say which files.

    Raises:
        ZbufError: a file can't be written; what is not written stays in memory. That nothing is left is no error.
    """
    written = salvage_all(None if name is None else check_name(name), Path(directory), remove=remove)
    if json:
        _print_json(sys.stdout, [_plain(one) for one in written])
        return
    for one in written:
        _print_written(one)
    if not written:
        sys.stderr.write("zbuf: no killed producer of yours left packets behind\n")


def _salvage_one(found: Found, path: str, *, remove: bool, told: bool) -> list[Salvaged]:
    try:
        salvaged = write_segment(found, path, remove=remove)
    except SegmentError as error:
        sys.stderr.write(f"zbuf: {printable(str(error))}\n")
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
    """The segments that have packets to write, and those that are damaged, of which the user must hear."""
    left = [one for one in found if one.state == "left"]
    wanted = [one for one in left if descriptor in (None, one.descriptor) and (one.packets > 0 or one.damage)]
    if wanted:
        return wanted
    if descriptor is not None and left:
        raise ZbufError(f"descriptor {descriptor} of {name!r} left nothing: zbuf salvage lists what there is")
    if left:
        raise ZbufError(f"producer {name!r} left no packets: its readers had acknowledged all")
    if any(one.state == "alive" for one in found):
        raise ZbufError(f"producer {name!r} is alive: read its packets with zbuf dump {name}")
    for one in found:
        raise ZbufError(_foreign(one))
    raise ZbufError(f"no killed producer {name!r} left anything behind: zbuf salvage lists what there is")


def _files(path: str, wanted: Sequence[Found]) -> list[str]:
    """A file name for each segment; several segments with packets have numbered names."""
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
    """Print a line about a file: on stderr if its packets are on stdout."""
    span = "" if one.first_ns is None or one.last_ns is None else f", {_time(one.first_ns)} to {_time(one.last_ns)} UTC"
    where = "standard output" if one.path == "-" else printable(one.path)
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
