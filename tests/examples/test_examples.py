"""What the examples have in common."""

from pathlib import Path

import pytest
from support.examples import Start, outcome

IN_PYTHON = [("alert.py", "3"), ("dns.py",), ("fan_out.py",), ("flows.py",)]


@pytest.mark.parametrize("command", IN_PYTHON, ids=lambda command: command[0])
def test_example_without_its_producer_says_so_in_one_line(
    run_dir: Path, example: Start, command: tuple[str, ...]
) -> None:
    message = f"{Path(command[0]).stem}: no producer 'none' runs in {run_dir}: start it with zbufd\n"
    assert outcome(example(*command, "none")) == ("", message, 1)
