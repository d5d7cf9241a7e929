"""A word about a wait that takes long: whom it is for.

Commands print it if standard error is a terminal. Other programs get it from the logger "zbuf.waiting", at level INFO.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger("zbuf.waiting")

TOLD_AFTER_S = 2.0
"""How long a wait goes on before it is told, in seconds."""


class Patience:
    """One wait, from now on; told once.

    Args:
        describe: returns whom it is for, as in "waiting for producer 'lab' to answer"; called only where it takes long.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._told_s = time.monotonic() + TOLD_AFTER_S

    @property
    def left_s(self) -> float:
        """How long until it is to be told, in seconds; 0 where it is due, infinite once it was told."""
        return max(0.0, self._told_s - time.monotonic())

    def tell(self) -> None:
        """Tell whom the wait is for, if that is due and was not told."""
        if self._told_s <= time.monotonic():
            self._told_s = float("inf")
            log.info("%s", self._describe())
