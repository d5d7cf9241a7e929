"""What the tests of the tools share: each has a run directory of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    return run_dir
