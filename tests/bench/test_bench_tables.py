"""The numbers of a benchmark run come into the tables of a page."""

import json
import subprocess
import sys
from pathlib import Path

from support.project import ROOT

ROWS = [
    {"measure": "ring", "zbuf": "5 M/s", "peer": "memcpy", "ratio": "0.50", "target": "≥ 1", "met": False},
    {"measure": "dump", "zbuf": "3 M/s", "peer": "tcpdump", "ratio": "2.00", "target": "", "met": None},
    {"measure": "ring", "zbuf": "5 M/s", "peer": "memory", "ratio": "2.50", "target": "≥ 1", "met": True},
    {"measure": "not in the page", "zbuf": "1", "peer": "2", "ratio": "3", "target": "4", "met": True},
]
PAGE = """\
Words | that are not a table.

| measure | zbuf | peer | ratio | target | met? |
|---|---|---|---|---|---|
| ring | 4 M/s | memcpy | 0.40 | ≥ 1 | no |
| not in the run | 1 M/s | memcpy | 0.10 |  |  |

| measure | beside |
|---|---|
| dump | cp |

| another | table |
|---|---|
| ring | stays |
"""
UPDATED = """\
Words | that are not a table.

| measure | zbuf | peer | ratio | target | met? |
|---|---|---|---|---|---|
| ring | 5 M/s | memcpy | 0.50 | ≥ 1 | no |
| ring | 5 M/s | memory | 2.50 | ≥ 1 | yes |
| not in the run | 1 M/s | memcpy | 0.10 |  |  |

| measure | beside |
|---|---|
| dump | tcpdump |

| another | table |
|---|---|
| ring | stays |
"""


def put(run: Path, page: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.tables", str(run), str(page)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_run_s_numbers_come_into_a_page_s_tables_and_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    run, page = tmp_path / "run.json", tmp_path / "page.md"
    run.write_text(json.dumps({"measures": ROWS}))
    page.write_text(PAGE)
    for _ in range(2):
        done = put(run, page)
        assert (done.returncode, done.stderr, page.read_text()) == (0, "", UPDATED)


def test_run_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    done = put(tmp_path / "none.json", page)
    assert page.read_text() == PAGE
    assert (done.returncode, done.stderr) == (1, f"bench.tables: {tmp_path}/none.json: No such file or directory\n")
