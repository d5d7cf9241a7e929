"""`make docs` builds the pages and the reference, and fails where it should."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install '.[docs]'")


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of the repository's pages, which a test can change, beside the sources that they link to."""
    for folder in ("deploy", "docs", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, tmp_path)
    for name in ("bench", "consumer", "docker-compose.yml", "producer", "pyproject.toml", "shared"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def build(pages: Path) -> "subprocess.CompletedProcess[str]":
    """What `make docs` does, in another folder."""
    command = [sys.executable, "-m", "sphinx", "-c", "docs", "-b", "html", "-q", "--fail-on-warning", "--keep-going"]
    return subprocess.run([*command, ".", "built"], cwd=pages, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_reference_has_the_docstrings_of_python_and_of_native_code(pages: Path) -> None:
    built = build(pages)
    assert built.returncode == 0, built.stderr
    reference = (pages / "built" / "docs" / "reference" / "consumer.html").read_text()
    assert "How many packets are in it." in reference  # of a property of Buffer, which is native
    for name in ("connect", "Reader.set_filter", "Reader.next_buffer", "Buffer.index", "Packet.time_ns"):
        assert f'id="zbuf.consumer.{name}"' in reference
    assert 'id="zbuf.producer.Producer.append"' in (pages / "built/docs/reference/producer.html").read_text()
    assert "zbuf.shared.errors.StaleBuffer" in (pages / "built/docs/reference/errors.html").read_text()


@pytest.mark.slow
def test_broken_links_and_undocumented_names_are_errors_that_name_them(pages: Path) -> None:
    with (pages / "docs" / "wireshark.md").open("a") as page:
        page.write("\n[a page](nowhere.md), [a file](../shared/nowhere.h), [a heading](guide.md#nowhere)\n")
    reference = pages / "docs" / "reference" / "errors.md"
    reference.write_text(reference.read_text().replace(":members:", ":members: ZbufError"))
    built = build(pages)
    assert built.returncode != 0
    for lost in (
        "nowhere.md",
        "../shared/nowhere.h",
        "'docs/guide': 'nowhere'",
        "zbuf.shared.errors.StaleBuffer is public",
    ):
        assert lost in built.stderr
