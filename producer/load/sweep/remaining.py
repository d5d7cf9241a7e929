"""How long a sweep will still take."""

import time

_EXPECTED_TRIALS = 8
"""Trials of a search, before one has told how many it takes."""


class Remaining:
    """Estimates the time left from the trials and the searches that are over.

    Args:
        searches: how many searches the sweep consists of.
        trial_s: how long a trial takes at least, in seconds, its warm-up included.
    """

    def __init__(self, searches: int, trial_s: float) -> None:
        self._searches = searches
        self._trial_s = trial_s
        self._started = time.monotonic()
        self._trials = 0
        self._over: list[int] = []
        """How many trials had been made when each search was over."""

    def trial_over(self) -> None:
        """Count a trial."""
        self._trials += 1

    def search_over(self, count: int = 1) -> None:
        """Count searches that have come to an end."""
        self._over += [self._trials] * count

    def seconds(self) -> float:
        """The estimate."""
        trial_s = (time.monotonic() - self._started) / self._trials if self._trials else self._trial_s
        each = self._over[-1] / len(self._over) if self._over else _EXPECTED_TRIALS
        under_way = self._trials - (self._over[-1] if self._over else 0)
        left = self._searches - len(self._over)
        return max(trial_s, self._trial_s) * max(each * left - under_way, min(left, 1))

    def __str__(self) -> str:
        """Such as "about 2 min left"."""
        left = self.seconds()
        return f"about {left / 60:,.0f} min left" if left >= 90 else f"about {left:,.0f} s left"
