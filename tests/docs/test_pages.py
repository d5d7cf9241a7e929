"""Every page: its links and paths lead somewhere, its commands have the options that it shows."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
from support.pages import PAGES, blocks_of, text_of
from support.project import ROOT

from zbuf.consumer import INDEX_DTYPE
from zbuf.consumer.cli import app as zbuf
from zbuf.producer.cli import app as zbufd

COMMANDS = {"zbuf": typer.main.get_command(zbuf), "zbufd": typer.main.get_command(zbufd)}
WITH_COMMANDS = ["README.md", "docs/guide.md", "docs/wireshark.md"]
TOPS = r"(?:\.ci|bench|build|consumer|deploy|docs|examples|producer|shared|src|tests)"
MADE = ("build/", "bench/results/")
"""Folders that the project's commands make."""


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", without_blocks(page))
    assert [link for link in links if not (ROOT / page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paths_in_backticks_are_files_of_the_repository(page: Path) -> None:
    words = [word for code in re.findall(r"`([^`\n]+)`", without_blocks(page)) for word in code.split()]
    paths = [
        word.rstrip("/,:") for word in words if re.fullmatch(rf"{TOPS}/[\w./-]*\w/?|\w+\.(?:h|pyx|pxd|toml|yml)", word)
    ]
    here = [path for path in paths if not path.startswith(MADE)]
    assert [path for path in here if not (exists(path) or exists(f"{page.parent}/{path}"))] == []


def exists(path: str) -> bool:
    """Whether a path is there; a bare name of a file may be anywhere in the three packages."""
    if "/" in path or (ROOT / path).exists():
        return (ROOT / path).exists()
    return any(next((ROOT / top).rglob(path), None) for top in ("shared", "producer", "consumer", "deploy"))


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_shell_lines_parse_and_the_commands_have_the_options_that_are_shown(page: str) -> None:
    checked = 0
    for block in blocks_of(page, "sh"):
        subprocess.run(["sh", "-n"], input=block, text=True, check=True, timeout=10)
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in COMMANDS:
                name, *arguments = words[1:]
                COMMANDS[words[0]].commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
                checked += 1
    assert checked >= 2


NAMING_CODE = ["docs/architecture.md", "docs/protocol.md", "docs/model/README.md"]
OTHERS = {"pcap_dispatch", "catchpacket", "poll", "memcpy", "write", "pread", "posix_fallocate", "select"}
"""Functions of the system, of libraries, and of FreeBSD."""


@pytest.mark.parametrize("page", NAMING_CODE)
def test_functions_that_pages_name_are_in_the_code(page: str) -> None:
    files = [file for top in ("shared", "producer", "consumer") for file in (ROOT / top).rglob("*")]
    code = "\n".join(file.read_text() for file in files if file.suffix in (".py", ".pyx", ".h"))
    defined = set(re.findall(r"(?:def |[ *])(\w+)\(", code)) | set(re.findall(r"^class (\w+)", code, re.MULTILINE))
    named = set(re.findall(r"`(?:\w+\.)?(\w+)\(\)`", text_of(page))) | set(
        re.findall(r"\b(zbuf_\w+)\(\)", text_of(page))
    )
    assert named
    assert named - defined - OTHERS == set()


def test_the_reference_lists_the_fields_of_an_index_row() -> None:
    rows = re.findall(r"^   ``(\w+)`` +(u?int\d+|datetime64\S+) ", text_of("docs/reference/consumer.md"), re.MULTILINE)
    assert rows == [(name, str(INDEX_DTYPE[name])) for name in INDEX_DTYPE.names or ()]
