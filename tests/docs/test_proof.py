"""The proof of the walk holds, and fails for every check that is left out."""

import shutil
import subprocess

import pytest
from support.project import ROOT

CHECK = ROOT / "docs" / "proof" / "check"


@pytest.mark.slow
@pytest.mark.skipif(
    not shutil.which("frama-c"), reason="Frama-C is not installed: apt-get install frama-c-base why3 z3"
)
def test_the_walk_is_proved_and_its_broken_versions_are_not() -> None:
    checked = subprocess.run([CHECK], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
