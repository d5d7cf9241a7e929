"""Samples of what grows during a replay: the number of packets, for instance."""

import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_FINEST_S = 0.05
_MOST_SAMPLES = 2000


class Samples(Generic[T]):
    """Looks at something during a `with` block: often at first, less often as the block gets long; and at both ends.

    Args:
        look: returns what is to be noted; it is called in another thread.
        finest_s: the shortest time between two looks, in seconds.
    """

    def __init__(self, look: Callable[[], T], *, finest_s: float = _FINEST_S) -> None:
        self._look = look
        self._finest_s = finest_s
        self.found: list[tuple[float, T]] = []
        """When each look was, in seconds of the monotonic clock, and what was seen; complete after the block."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="zbuf-samples", daemon=True)

    def _sample(self) -> None:
        pause_s = self._finest_s
        self._add()
        while not self._over.wait(pause_s):
            self._add()
            if len(self.found) == _MOST_SAMPLES:
                del self.found[1::2]
                pause_s *= 2
        self._add()

    def _add(self) -> None:
        now = time.monotonic()
        if self.found and now - self.found[-1][0] < self._finest_s / 2:
            del self.found[max(1, len(self.found) - 1) :]  # too close to tell a rate; the first one stays
        self.found.append((now, self._look()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


def rates(found: list[tuple[float, int]]) -> list[tuple[float, float]]:
    """For each sample but the first: seconds since the first, and the rate since the sample before."""
    pairs = itertools.pairwise(found)
    return [(then - found[0][0], (more - less) / (then - first)) for (first, less), (then, more) in pairs]
