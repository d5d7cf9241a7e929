"""The rate of a replay over time."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_FINEST_S = 0.05
_MOST_SAMPLES = 2000


class Samples:
    """Samples a count during a `with` block: often at first, less often as the block gets long.

    Args:
        count: returns the count; it is called in another thread.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="zbuf-samples", daemon=True)
        self._found: list[tuple[float, int]] = []

    def rates(self) -> list[tuple[float, float]]:
        """For each sample but the first: seconds since the first, and the rate since the sample before."""
        pairs = zip(self._found, self._found[1:], strict=False)
        return [(then - self._found[0][0], (more - less) / (then - first)) for (first, less), (then, more) in pairs]

    def _sample(self) -> None:
        pause_s = _FINEST_S
        self._add()
        while not self._over.wait(pause_s):
            self._add()
            if len(self._found) == _MOST_SAMPLES:
                del self._found[1::2]
                pause_s *= 2
        self._add()

    def _add(self) -> None:
        now = time.monotonic()
        if not self._found or now - self._found[-1][0] >= _FINEST_S / 2:
            self._found.append((now, self._count()))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
