"""What the filters of each user may take of the capture's time: a quarter of it in all, in equal parts.

So a capture keeps three quarters of the rate that it would have with ordinary filters, whatever readers ask for. What
is ordinary, and what happens where a part is used up, is in zbuf.producer.ring.filter_share.
"""

import logging
import time
from dataclasses import dataclass

from zbuf.producer.ring.filter_share import FilterShare
from zbuf.producer.ring.pump import Pump
from zbuf.producer.serving.listener import Listener
from zbuf.shared.users import user_name

log = logging.getLogger("zbuf")

_OF_ALL = 1 / 4
_REPORT_S = 10.0


@dataclass
class _Account:
    """Of one user."""

    share: FilterShare
    listeners: int = 0
    reported: int = 0
    """How many packets that were passed over the log knows of."""
    reported_s: float = float("-inf")


class FilterShares:
    """The shares of the users that have descriptors; only the owner of the descriptors may call.

    Args:
        pump: feeds the descriptors.
    """

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._accounts: dict[int, _Account] = {}

    def open(self, listener: Listener) -> None:
        """A descriptor is there: its filter is charged to the user that opened it."""
        account = self._accounts.setdefault(listener.uid, _Account(FilterShare(self._pump.idle)))
        account.listeners += 1
        listener.descriptor.charge(account.share)
        self._deal()

    def close(self, listener: Listener) -> None:
        """A descriptor is gone."""
        account = self._accounts[listener.uid]
        account.listeners -= 1
        if not account.listeners:
            del self._accounts[listener.uid]
        self._deal()

    def _deal(self) -> None:
        for account in self._accounts.values():
            account.share.set(_OF_ALL / len(self._accounts))

    def tick(self) -> None:
        """Tell the log whose filters took more than their part, a line in ten seconds for each user."""
        now_s = time.monotonic()
        for uid, account in self._accounts.items():
            passed_over = account.share.passed_over - account.reported
            if passed_over and now_s - account.reported_s >= _REPORT_S:
                log.warning(
                    "the filters of user %s take more than their part of the time (%.0f %%): "
                    "%d packets were dropped unfiltered",
                    user_name(uid),
                    100 * account.share.share,
                    passed_over,
                )
                account.reported, account.reported_s = account.share.passed_over, now_s
