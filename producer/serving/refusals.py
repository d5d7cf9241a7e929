"""What is refused goes to the log, and however much one peer asks for, that is a line a second for each user."""

import logging
import time
from dataclasses import dataclass

from zbuf.producer.serving.access import Peer

log = logging.getLogger("zbuf")

_PAUSE_S = 1.0
_USERS = 256


@dataclass
class _Told:
    at_s: float = float("-inf")
    left_out: int = 0


class Refusals:
    """Logs refusals, in the control thread."""

    def __init__(self) -> None:
        self._told: dict[int, _Told] = {}

    def note(self, peer: Peer, reason: str) -> None:
        """A peer was refused something."""
        now_s, told = time.monotonic(), self._told.setdefault(peer.uid, _Told())
        if now_s - told.at_s < _PAUSE_S:
            told.left_out += 1
            return
        more = f" (and {told.left_out} more were refused)" if told.left_out else ""
        log.warning("refused %s: %s%s", peer, reason, more)
        told.at_s, told.left_out = now_s, 0
        if len(self._told) > _USERS:
            del self._told[next(iter(self._told))]
