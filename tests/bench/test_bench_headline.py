"""The picture of the README: it is what the benchmark draws from the numbers of docs/performance.md."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT

PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "pictures" / "ratios.svg"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def draw(page: Path, picture: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.headline", str(page), str(picture)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def words_of(svg: str) -> list[str]:
    """All that can be read in a picture."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def bars_of(svg: str) -> list[list[float]]:
    """The coordinates of the green bars."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*fill: #2ca02c', svg)
    return [[float(number) for number in _NUMBER.findall(path)] for path in paths]


def test_the_picture_is_what_the_numbers_of_the_page_come_to(tmp_path: Path) -> None:
    drawn = tmp_path / "again.svg"
    done = draw(PAGE, drawn)
    assert done.returncode == 0, done.stderr
    again, committed = drawn.read_text(), PICTURE.read_text()
    assert words_of(again) == words_of(committed), "run: python -m bench.headline docs/performance.md " + str(PICTURE)
    assert len(bars_of(again)) == 4
    for bar, committed_bar in zip(bars_of(again), bars_of(committed), strict=True):
        assert bar == pytest.approx(committed_bar, abs=3)  # as another version of matplotlib places it


def test_another_number_makes_another_picture(tmp_path: Path) -> None:
    page, drawn = tmp_path / "page.md", tmp_path / "other.svg"
    text = PAGE.read_text()
    assert text.count("| 2.51 |") == 1
    page.write_text(text.replace("| 2.51 |", "| 3.99 |"))
    assert draw(page, drawn).returncode == 0
    assert "4.0" in words_of(drawn.read_text())
    assert words_of(drawn.read_text()) != words_of(PICTURE.read_text())


def test_page_without_the_numbers_is_refused_in_one_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| measure | zbuf |\n|---|---|\n| ring | 5 M/s |\n")
    done = draw(page, tmp_path / "none.svg")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(page) in done.stderr
    assert not (tmp_path / "none.svg").exists()
