"""Helpers of the tests of producers and of their clients."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.processes import LIMIT_S, Remote
from zbuf.shared.control.statistics import DescriptorStatistics, Ledger

PAGE = 4096
PER_PAGE = 43
"""How many packets of numbered() fit into a buffer of one page."""
NewRemote = Callable[[], Remote]
WAITS = pytest.mark.parametrize("wait", ["sleep", "spin"])


def adds_up(ledger: Ledger) -> bool:
    """Whether received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered."""
    accepted = ledger.delivered + ledger.dropped + ledger.abandoned + ledger.buffered
    return ledger.received == ledger.filtered + ledger.accepted and ledger.accepted == accepted


def segments(name: str) -> list[str]:
    """The shared-memory objects that a producer of this name has, or has left behind."""
    return sorted(entry.name for entry in Path("/dev/shm").glob(f"zbuf.{name}.*"))


def only(descriptors: list[DescriptorStatistics]) -> DescriptorStatistics:
    """The only descriptor of a producer."""
    (one,) = descriptors
    return one


@contextlib.contextmanager
def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[list[Any]]:
    """Call a function in a thread; its result is in the list at the end of the block."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    yield results
    thread.join(LIMIT_S)
    assert not thread.is_alive(), f"{function.__name__}() does not return"
