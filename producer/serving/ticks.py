"""Time, for the descriptors: a thread that does nothing else, so that no client can keep it from them."""

import logging
import threading

from zbuf.producer.serving.owner import Owner
from zbuf.producer.serving.roster import Roster

log = logging.getLogger("zbuf")

_END_S = 1.0


class Ticks:
    """Has read timeouts run, and slow readers evicted, until stop().

    Args:
        owner: has the right to touch the descriptors.
        roster: says how often a tick is due.
    """

    def __init__(self, owner: Owner, roster: Roster) -> None:
        self._owner = owner
        self._roster = roster
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zbuf-ticks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let no more time pass."""
        self._stopped.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._stopped.wait(self._roster.tick_s):
            try:
                self._owner.tick()
                self._roster.refusals.tick()
            except Exception:
                log.exception("a tick failed: this is a bug of zbuf")
