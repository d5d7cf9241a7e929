"""zbuf ls and zbuf stats: which captures run, and what became of every packet."""

import sys

import msgspec

from zbuf.consumer.reading.connection import Connection, producers
from zbuf.consumer.tools.words import duration
from zbuf.shared.cli.options import Json, Producer, RunDir
from zbuf.shared.cli.tables import print_ledgers, print_table
from zbuf.shared.control.statistics import Statistics
from zbuf.shared.names import linktypes_of, printable
from zbuf.shared.users import user_name

_PRODUCERS = ("name", "pid", "up", "interfaces", "descriptors", "readers", "offered", "dropped")
_INTERFACES = ("interface", "engine", "state", "received", "taken", "dropped by kernel", "by interface", "times lost")
_READERS = ("reader", "descriptor", "pid", "user", "delivered", "buffers held", "stalls", "dropped meanwhile")


def ls(run_dir: RunDir = None, json: Json = False) -> None:
    """List the producers that run."""
    found = producers(run_dir)
    if json:
        _print_json([_plain(one) for one in found])
    elif found:
        print_table("", _PRODUCERS, [_producer(one) for one in found])
    else:
        sys.stderr.write("zbuf: no producer runs\n")


def stats(
    name: Producer,
    run_dir: RunDir = None,
    json: Json = False,
) -> None:
    """Print what became of every packet, for each descriptor of a capture."""
    with Connection(name, run_dir) as connection:
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


# ---- rows -----------------------------------------------------------------------------------------------------------


def _producer(one: Statistics) -> list[str | int]:
    return [
        one.producer,
        str(one.pid),
        duration(one.uptime_s),
        ",".join(one.interfaces),
        len(one.descriptors),
        sum(len(descriptor.readers) for descriptor in one.descriptors),
        one.offered,
        sum(descriptor.dropped for descriptor in one.descriptors) + one.closed.dropped,
    ]


def _interfaces(found: Statistics) -> list[list[str | int]]:
    return [
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


def _plain(statistics: Statistics) -> dict[str, object]:
    """The statistics as a dict, without the message's type."""
    plain: dict[str, object] = msgspec.to_builtins(statistics)
    del plain["type"]
    return plain


def _print_json(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
