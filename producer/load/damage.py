"""What commands say of damage in the capture files that they replay."""

import sys
from collections.abc import Iterable

from zbuf.shared.names import printable


def warn(warnings: Iterable[str]) -> None:
    """Print a line for each warning: damage in files is known beforehand if they are in memory, else after a pass."""
    for warning in warnings:
        sys.stderr.write(f"zbufd: {printable(warning)}\n")
