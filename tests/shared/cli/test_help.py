"""The help of all commands: as other tools write it, in lines that fit, and without importing what it does not need."""

import os
import subprocess
import sys

import pytest
import typer
from support.commands import run

from zbuf.consumer.cli import app as zbuf
from zbuf.producer.cli import app as zbufd

GROUPS = {"zbuf": typer.main.get_command(zbuf), "zbufd": typer.main.get_command(zbufd)}
COMMANDS = [(name, word) for name, group in GROUPS.items() for word in group.commands]  # type: ignore[attr-defined]
COLUMNS = 80


def help_of(*words: str) -> list[str]:
    name, *rest = words
    done = run(name, *rest, "--help", env=os.environ | {"COLUMNS": str(COLUMNS)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", GROUPS)
def test_each_command_is_listed_with_a_summary_that_fits_its_line(name: str) -> None:
    lines = help_of(name)
    listed = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in listed] == [word for group, word in COMMANDS if group == name]
    for line in listed:
        assert len(line) <= COLUMNS
        assert line.endswith(".")
        assert not line.endswith("..")


@pytest.mark.parametrize(("name", "word"), COMMANDS)
def test_nothing_in_the_help_of_a_command_is_cut_or_without_words(name: str, word: str) -> None:
    lines = help_of(name, word)
    assert lines[0].startswith(f"Usage: {name} {word}")
    assert all(len(line) <= COLUMNS for line in lines)
    assert not any(line.rstrip().endswith(("…", "..")) for line in lines[1:] if not line.startswith("  FILE..."))
    group = GROUPS[name]
    command = group.commands[word]  # type: ignore[attr-defined]
    for one in command.params:
        assert one.hidden or one.help, one.name


@pytest.mark.parametrize("arguments", [("zbuf", "--help"), ("zbufd", "--help"), ("zbuf", "ls")], ids=" ".join)
def test_commands_start_without_what_they_do_not_need(arguments: tuple[str, ...], run_dir: object) -> None:
    del run_dir
    name, *rest = arguments
    module = {"zbuf": "zbuf.consumer.cli", "zbufd": "zbuf.producer.cli"}[name]
    program = f"""
import atexit, sys
heavy = ("numpy", "scapy", "matplotlib", "asyncio", "rich", "prometheus_client", "zbuf.consumer.tools.dump")
atexit.register(lambda: print(*(one for one in heavy if one in sys.modules)))
sys.argv = ["{name}", *{rest!r}]
from {module} import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
