"""Whom a lossless replay waits for, once it has stood still for a while."""

import time

from zbuf.producer.producer import Producer
from zbuf.producer.serving.waiting import holders
from zbuf.shared.patience import TOLD_AFTER_S

_ANSWER_S = 1.0
_BUFFERS = 2
"""A reader that has both buffers of its descriptor leaves the producer none."""


class Standing:
    """Asks a producer that takes no more packets whom it waits for.

    Args:
        producer: it must be lossless; others wait for nobody.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._offered = -1
        self._since_s = 0.0

    def whom(self) -> str:
        """Whom it waits for, as in ", waiting for python3 (pid 7)"; empty while packets flow."""
        now_s, offered = time.monotonic(), self._producer.offered
        if offered != self._offered:
            self._offered, self._since_s = offered, now_s
        if now_s - self._since_s < TOLD_AFTER_S:
            return ""
        try:
            found = self._producer.stats(_ANSWER_S).descriptors
        except TimeoutError:
            return ""
        readers = [reader for descriptor in found for reader in descriptor.readers]
        return f", waiting for {holders(readers, _BUFFERS)}"
