"""The protocol's model holds, and every mistake that is planted in it is found."""

import shutil
import subprocess

import pytest
from support.project import ROOT

CHECK = ROOT / "docs" / "model" / "check"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed: apt-get install spin")
def test_the_model_holds_and_its_mutations_do_not() -> None:
    checked = subprocess.run([CHECK], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
