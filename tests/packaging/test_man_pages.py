"""The manual pages, as docs/man.py makes them of the commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support.project import ROOT

from zbuf.consumer.cli import app as consumer
from zbuf.producer.cli import app as producer


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page by its name, such as zbuf-dump."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "docs" / "man.py", folder], check=True)
    return {page.stem: page for page in folder.iterdir()}


def rendered(page: Path) -> str:
    """A page as a reader sees it, hyphenated nowhere; it has nothing that man warns about."""
    if shutil.which("man") is None:
        pytest.skip("no man here: apt-get install man-db")
    command: list[str | Path] = ["man", "--warnings", "--no-hyphenation", "--no-justification", "--local-file", page]
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200", "MANROFFOPT": "-c"}
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert shown.stderr == ""
    return shown.stdout


def test_each_command_has_a_page(pages: dict[str, Path]) -> None:
    expected = {"zbuf", "zbufd"}
    for name, app in (("zbuf", consumer), ("zbufd", producer)):
        group = typer.main.get_command(app)
        assert isinstance(group, typer.core.TyperGroup)
        expected |= {f"{name}-{word}" for word in group.commands}
    assert set(pages) == expected


def test_pages_render_clean(pages: dict[str, Path]) -> None:
    for name, page in pages.items():
        text = rendered(page)
        for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
            assert f"\n{heading}\n" in text, name
        assert "-h, --help" in text, name
        assert "..." not in text.partition("SYNOPSIS")[0], name


def test_mandoc_finds_nothing_wrong(pages: dict[str, Path]) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("no mandoc here: apt-get install mandoc")
    found = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages.values()], capture_output=True, text=True)
    assert found.stdout + found.stderr == ""


def test_a_page_says_what_help_says(pages: dict[str, Path]) -> None:
    zbuf = Path(sys.executable).parent / "zbuf"
    environment = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "PATH": "/usr/bin:/bin"}
    told = subprocess.run([zbuf, "dump", "--help"], check=True, capture_output=True, text=True, env=environment).stdout
    assert "--relinquish-privileges" in told
    page = " ".join(rendered(pages["zbuf-dump"]).split())
    for line in told.splitlines():
        if line.strip() and not line.startswith(("Usage", "Arguments", "Options")):
            assert " ".join(line.split()) in page, line
