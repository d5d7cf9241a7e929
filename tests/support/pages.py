"""The project's pages, and the blocks of code in them."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.project import ROOT

BIN = Path(sys.executable).parent
Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""The fixture `run`: run(program, *arguments)."""

PAGES = sorted(
    page.relative_to(ROOT)
    for found in (ROOT.glob("*.md"), *((ROOT / folder).rglob("*.md") for folder in ("deploy", "docs", "examples")))
    for page in found
)
"""Every page of the repository, relative to its top."""


def text_of(page: str | Path) -> str:
    """The text of a page."""
    return (ROOT / page).read_text()


def blocks_of(page: str | Path, language: str, containing: str = "") -> list[str]:
    """The blocks of code in a language that contain certain words; there must be at least one."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if containing in block]
    assert found, f"{page} has no {language} with {containing!r}"
    return found
