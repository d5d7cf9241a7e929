"""The log of refusals: each user and kind of reason has a line now and then, whoever is refused how often."""

import logging
import threading
import time
from dataclasses import dataclass

from zbuf.shared.names import printable

log = logging.getLogger("zbuf")

_PAUSE_S = 10.0
"""How long a user's refusals of one kind are counted before the next line tells how many there were."""
_LINES_MAX = 20
"""Lines within that time, of all users."""
_REASON_LENGTH = 300


@dataclass
class _Counted:
    since_s: float
    peer: str
    reason: str
    level: int
    more: int = 0


class Refusals:
    """Logs refusals; any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[tuple[int, str], _Counted] = {}
        self._others = 0

    def note(self, uid: int, peer: object, kind: str, reason: str, level: int = logging.INFO) -> None:
        """A peer was refused something.

        Args:
            uid: whose refusals of this kind share a line.
            peer: who it was, in words.
            kind: the kind of reason: one of a few, and none that a peer can choose.
            reason: why.
            level: how important it is to whoever reads the log.
        """
        with self._lock:
            known = self._counted.get((uid, kind))
            if known is not None:
                known.more += 1
            elif len(self._counted) >= _LINES_MAX:
                self._others += 1
            else:
                shown = printable(reason[:_REASON_LENGTH])
                self._counted[uid, kind] = _Counted(time.monotonic(), str(peer), shown, level)
                log.log(level, "refused %s: %s", peer, shown)

    def tick(self) -> None:
        """Tell of those that were not logged, once their time is over."""
        now_s = time.monotonic()
        with self._lock:
            over = [key for key, one in self._counted.items() if now_s - one.since_s >= _PAUSE_S]
            for one in map(self._counted.pop, over):
                if one.more:
                    log.log(one.level, "refused %s: %s: %d times more", one.peer, one.reason, one.more)
            if over and self._others:
                log.warning("refused other users, or for other reasons: %d times", self._others)
                self._others = 0
