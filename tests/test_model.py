"""The protocol's model holds, and every mistake that is planted in it is found."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).parent.parent / "docs" / "model" / "check"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("spin"), reason="spin is not installed: apt-get install spin")
def test_the_model_holds_and_its_mutations_do_not() -> None:
    checked = subprocess.run([CHECK], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
