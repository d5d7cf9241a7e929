"""Which of many events that repeat themselves are worth a line in a log."""

import time
from collections.abc import Hashable

EVERY_S = 60.0
"""How long nothing is logged of the same cause again, in seconds."""

_CAUSES_MAX = 1024


class Seldom:
    """Lets the first event of each cause pass, then one in a minute, which says how many were left out.

    A client that tries again and again must not fill the log. Causes are forgotten after a while, so that many clients
    don't fill the memory either.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[float, int]] = {}

    def note(self, cause: Hashable) -> int | None:
        """Note an event; returns None if it is not worth a line, else how many were left out since the last line."""
        now_s = time.monotonic()
        last_s, left_out = self._last.get(cause, (now_s - EVERY_S, 0))
        if now_s - last_s < EVERY_S:
            self._last[cause] = (last_s, left_out + 1)
            return None
        if len(self._last) >= _CAUSES_MAX:
            self._last.clear()
        self._last[cause] = (now_s, 0)
        return left_out
