"""What the guide shows is true: its programs run, its tables are the code's."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import typer
from support.pages import Run, blocks_of, text_of
from support.project import ROOT

from zbuf.consumer.cli import app as zbuf
from zbuf.producer import Producer
from zbuf.producer.cli import app as zbufd
from zbuf.shared.control.statistics import (
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)

GUIDE = "docs/guide.md"
STATISTICS = (Statistics, DescriptorStatistics, ReaderStatistics, InterfaceStatistics)
PRINTS = {  # a part of the program, and what its output ends with
    "hex()": re.compile(r"\d+ \d+ \d+ [0-9a-f]+"),
    "StaleBuffer": re.compile(r"buffer 0 was acknowledged: use its packets before, or copy them"),
    "file=": re.compile(r"[1-9]\d* bytes of DNS"),
    "replay(": re.compile(r"[1-9]\d* packets replayed"),
    "index_batches": re.compile(r"[1-9]\d* sources"),
    "connect_async": re.compile(r"[1-9]\d*"),
    "ScapySocket": re.compile(r".*DNS.*"),
    "reconnect": re.compile(r"0 returns, 0 packets that nobody can account for"),
}


def table(first_head: str) -> list[list[str]]:
    """The rows of the table that begins with a head."""
    page = text_of(GUIDE)
    lines = page[page.index(f"| {first_head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line[1:].removesuffix("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("program", blocks_of(GUIDE, "python"), ids=lambda one: one.splitlines()[-1].strip()[:30])
def test_its_programs_run_as_they_stand(
    program: str, producer: Producer, run: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(capture, tmp_path / "mix.pcap")  # for the programs that need no producer
    monkeypatch.chdir(tmp_path)
    (expected,) = (pattern for part, pattern in PRINTS.items() if part in program)
    lines = run(sys.executable, "-c", program).stdout.splitlines()
    assert expected.fullmatch(lines[-1])
    assert producer.offered > 500 or "mix.pcap" in program


def test_its_list_of_commands_has_every_command() -> None:
    commands = {
        f"{name} {command}"
        for name, app in (("zbuf", zbuf), ("zbufd", zbufd))
        for command in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    }
    assert {row[0].strip("`") for row in table("command")} == commands


def test_its_counters_are_those_of_the_statistics() -> None:
    counted = {name for kind in STATISTICS for name in kind.__struct_fields__}
    named = {name for row in table("tcpdump says") for name in re.findall(r"`(\w+)`", row[1])}
    assert named - {"live"} >= set(Ledger.__struct_fields__)
    assert named <= counted


def literal_parts(text: str, *varying: str) -> list[str]:
    """A message without the parts that differ from one time to the next."""
    return [part.strip(" :;,(") for part in re.split("|".join(varying), text) if len(part.strip(" :;,(")) > 7]


def test_the_messages_that_it_explains_are_those_of_the_code() -> None:
    files = [file for folder in ("shared", "producer", "consumer") for file in (ROOT / folder).rglob("*.py*")]
    source = "\n".join(file.read_text() for file in files if file.suffix in (".py", ".pyx"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)  # a message of several lines
    messages = [row[0] for row in table("message")]
    assert len(messages) > 15
    for message in messages:
        if "libpcap" not in message:
            parts = literal_parts(message, r"\.\.\.", r"'\w+'", r"\b\d+\b", r"\(\w+\)", ";")
            assert parts
            assert [part for part in parts if part not in source] == []
