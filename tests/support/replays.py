"""Replays of numbered packets by zbufd, and dumps of them by zbuf."""

import os
from pathlib import Path
from typing import Any

from support.captures import Record, read_capture
from support.commands import Commands, Done, Process, end, wait_line
from support.processes import number_of, numbered
from zbuf.consumer.reading.connection import Connection

PAGE = 4096
COUNT = 1000
"""How many packets are in the file `lab`."""
LEDGER = ("received", "filtered", "accepted", "delivered", "dropped", "abandoned", "buffered", "truncated")


def records(count: int) -> list[Record]:
    return [Record(numbered(number), 1_700_000_000_000_000_000 + number, 60) for number in range(count)]


def numbers_in(path: Path) -> list[int]:
    """The numbers of the packets in a file; the file must be whole."""
    return [number_of(record.data) for record in read_capture(path.read_bytes()).records]


def adds_up(ledger: dict[str, int]) -> bool:
    accepted = ledger["delivered"] + ledger["dropped"] + ledger["abandoned"] + ledger["buffered"]
    return ledger["received"] == ledger["filtered"] + ledger["accepted"] and ledger["accepted"] == accepted


def start_replay(commands: Commands, name: str, path: Path, *options: str) -> Process:
    """Start zbufd replay, and return when readers can connect."""
    process = commands.start("zbufd", "replay", path, "--name", name, *options)
    wait_line(process.stderr, f"{name} ready in")
    return process


def start_dump(commands: Commands, name: str, *options: str | Path, **more: Any) -> Process:
    """Start zbuf dump, which waits for its producer."""
    return commands.start("zbuf", "dump", name, "--wait-producer", "20", *options, **more)


def replay_and_dump(commands: Commands, name: str, path: Path, *options: str | Path) -> tuple[Done, Done]:
    """Run a lossless replay with its report in JSON, and a dump of it; returns the outcome of both."""
    dump = start_dump(commands, name, *options)
    replay = commands.start(
        "zbufd", "replay", path, "--name", name, "--wait-readers", "1", "--lossless", "--json"
    )  # fmt: skip
    return end(replay), end(dump)


def wait_until_some_are_delivered(name: str) -> None:
    with Connection(name) as connection:
        while not any(one.delivered for one in connection.stats().descriptors):
            os.sched_yield()


def wait_for_readers(name: str, count: int) -> None:
    with Connection(name) as connection:
        while sum(len(one.readers) for one in connection.stats().descriptors) < count:
            os.sched_yield()
