"""zbuf ls and zbuf stats: which captures run, and what became of every packet."""

import sys
from typing import Annotated

import msgspec
import typer

from zbuf.consumer.connection import Connection, producers
from zbuf.shared.commandline import Json, RunDir, print_ledgers, print_table
from zbuf.shared.control import Statistics


def ls(run_dir: Annotated[str | None, RunDir] = None, json: Annotated[bool, Json] = False) -> None:
    """List the producers that run."""
    found = producers(run_dir)
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode([_plain(one) for one in found])) + b"\n")
        return
    rows = [
        [
            one.producer,
            str(one.pid),
            f"{one.uptime_s:.0f} s",
            ",".join(one.interfaces),
            len(one.descriptors),
            sum(len(descriptor.readers) for descriptor in one.descriptors),
            one.offered,
            sum(descriptor.dropped for descriptor in one.descriptors) + one.closed.dropped,
        ]
        for one in found
    ]
    if rows:
        print_table("", ["name", "pid", "up", "interfaces", "descriptors", "readers", "offered", "dropped"], rows)
    else:
        sys.stderr.write("zbuf: no producer runs\n")


def stats(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The producer's name; zbuf ls tells which there are.")],
    run_dir: Annotated[str | None, RunDir] = None,
    json: Annotated[bool, Json] = False,
) -> None:
    """Print what became of every packet, for each descriptor of a capture."""
    with Connection(name, run_dir) as connection:
        found = connection.stats()
    if json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(_plain(found))) + b"\n")
        return
    sys.stdout.write(
        f"{found.producer}: pid {found.pid}, up {found.uptime_s:.0f} s, link-type {found.linktype}, "
        f"{', '.join(found.interfaces)}: {found.offered:,} packets offered\n"
    )
    if found.live:
        live = [
            [
                one.interface,
                one.engine,
                one.state,
                one.received,
                one.taken,
                one.dropped_by_kernel,
                one.dropped_by_interface,
                one.lost,
            ]
            for one in found.live
        ]
        heads = ["interface", "engine", "state", "received", "taken", "dropped by kernel", "by interface", "times lost"]
        print_table("", heads, live)
    if found.descriptors:
        print_ledgers(found.descriptors)
        readers = [
            [r.reader, d.descriptor, str(r.pid), str(r.user), r.delivered, r.holding, r.stalls, r.stalled]
            for d in found.descriptors
            for r in d.readers
        ]
        heads = ["reader", "descriptor", "pid", "user", "delivered", "buffers held", "stalls", "dropped meanwhile"]
        print_table("", heads, readers)
    else:
        sys.stdout.write("no reader is connected\n")


def _plain(statistics: Statistics) -> dict[str, object]:
    """The message without its tag."""
    plain: dict[str, object] = msgspec.to_builtins(statistics)
    del plain["type"]
    return plain
