"""Waiting for readers: for them to come, and for them to acknowledge what is left."""

import time
from collections.abc import Iterable

from zbuf.producer.serving.owner import Owner
from zbuf.producer.serving.roster import Roster
from zbuf.shared.control.statistics import ReaderStatistics
from zbuf.shared.names import printable, process_name
from zbuf.shared.patience import Patience

DEFAULT_LINGER_S = 5.0
"""How long a producer that ends waits for its readers, in seconds."""

_LOOK_S = 0.1  # so short that stop() in a signal handler is seen
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0001, 0.005


def wait_readers(owner: Owner, roster: Roster, count: int, timeout_s: float | None) -> bool:
    """Wait until `count` readers are connected; False when the time is over, or on stop()."""
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with roster.readers_changed:
        while roster.readers < count and not owner.stopping:
            left_s = _LOOK_S if deadline_s is None else min(_LOOK_S, deadline_s - time.monotonic())
            if left_s <= 0:
                return False
            roster.readers_changed.wait(left_s)
    return not owner.stopping


def wait_readers_gone(owner: Owner, roster: Roster) -> None:
    """Wait until no reader is connected, or for stop()."""
    with roster.readers_changed:
        while roster.readers and not owner.stopping:
            roster.readers_changed.wait(_LOOK_S)


def drain(owner: Owner, roster: Roster, linger_s: float | None) -> bool:
    """Wait until the readers have acknowledged everything; False when `linger_s` is over.

    None waits for as long as it takes; but after a stop(), DEFAULT_LINGER_S at most. A stop() that comes now ends the
    wait at once.
    """
    stopped, linger_s = owner.stopping, DEFAULT_LINGER_S if linger_s is None and owner.stopping else linger_s
    started_s, pause_s = time.monotonic(), _FIRST_PAUSE_S
    patience = Patience(lambda: f"waiting for {holders(owner.submit(roster.all_readers).result())}: Ctrl-C ends it")
    while owner.submit(roster.buffered).result():
        if linger_s is not None and time.monotonic() - started_s >= linger_s:
            return False
        if owner.stopping and not stopped:
            return False
        patience.tell()
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return True


def holders(readers: Iterable[ReaderStatistics], buffers: int = 1) -> str:
    """Who has not given back as many buffers, in words; "readers" if nobody is found."""
    found = [f"{printable(process_name(one.pid))} (pid {one.pid})" for one in readers if one.holding >= buffers]
    return ", ".join(found) or "readers"
