"""How zbuf top asks producers: one connection to each, one request for each update, no wait for silent producers.

Each request is made in a thread of its own, which waits for the answer as long as it takes. An update waits a moment
for the producers that it has asked. A producer that still owes an answer to an earlier update is neither asked again
nor waited for.
"""

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from threading import Thread

from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.tools.top.rates import Compared, History, compare
from zbuf.shared.closing import Closing
from zbuf.shared.control.rundir import search_path
from zbuf.shared.control.rundir_look import producer_names
from zbuf.shared.control.statistics import Statistics
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, RunDirectoryError, ValueRefused
from zbuf.shared.names import check_name

ANSWER_S = 1.0
"""How long an update waits for answers: a busy capture answers within milliseconds."""
REFUSED_S = 10.0
"""How long a producer that has refused is not asked again: it logs each refusal."""


@dataclass(frozen=True)
class Seen:
    """One producer, at one update."""

    name: str
    found: Compared | None = None
    problem: str = ""
    """Why there are no statistics; empty if there are."""
    missing: bool = False
    """Whether no producer of that name runs."""


class Watch(Closing):
    """Asks the producer of one name; another producer may take the name over."""

    def __init__(self, name: str, run_dir: str | None) -> None:
        self.name = name
        self._run_dir = run_dir
        self._connection: Connection | None = None
        self._asked: Future[Statistics] | None = None
        self._asked_s = 0.0
        self._before: Statistics | None = None
        self._history = History()
        self._refused: Seen | None = None

    def ask(self) -> "Future[Statistics] | None":
        """Ask, and return the future answer; None if the last answer is still to come, or was a refusal."""
        now_s = time.monotonic()
        if self._asked is not None or (self._refused is not None and now_s < self._asked_s + REFUSED_S):
            return None
        self._asked, self._asked_s, self._refused = Future(), now_s, None
        Thread(target=self._answer, args=(self._asked,), name="zbuf-top", daemon=True).start()
        return self._asked

    def look(self) -> Seen:
        """What is known of the producer now."""
        if self._refused is not None:
            return self._refused
        if self._asked is None or not self._asked.done():
            return Seen(self.name, problem=f"has not answered for {time.monotonic() - self._asked_s:.0f} s")
        answer, self._asked = self._asked, None
        try:
            return self._seen(answer.result())
        except (ProducerNotFound, ValueRefused) as error:  # the name may be that of another file in the directory
            return Seen(self.name, problem=str(error), missing=True)
        except Refused as error:
            self._refused = Seen(self.name, problem=f"refuses: {error}")
            return self._refused
        except (ControlError, OSError) as error:
            return Seen(self.name, problem=str(error))

    def close(self) -> None:
        """Hang up, once the thread that may be using the connection is done with it."""
        if self._asked is None:
            self._hang_up()
        else:
            self._asked.add_done_callback(lambda _: self._hang_up())

    def _seen(self, now: Statistics) -> Seen:
        before, self._before = self._before, now
        return Seen(self.name, self._history.note(compare(before, now)))

    def _answer(self, answer: "Future[Statistics]") -> None:
        try:
            answer.set_result(self._statistics())
        except BaseException as error:
            answer.set_exception(error)

    def _statistics(self) -> Statistics:
        if self._connection is not None:
            try:
                return _statistics_from(self._connection)
            except (ControlError, OSError):  # the producer has ended, and may run again
                self._hang_up()
        self._connection = Connection(self.name, self._run_dir)
        try:
            return _statistics_from(self._connection)
        except BaseException:
            self._hang_up()
            raise

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _statistics_from(connection: Connection) -> Statistics:
    found = connection.stats()
    if not isinstance(found, Statistics):
        raise ControlError("answered something else: is this a zbuf producer, and of the same version?")
    return found


class Captures(Closing):
    """Watches all producers that run, or those that are named.

    Args:
        names: the producers; empty for all that run at the time of each update.
        run_dir: where their sockets are; see zbuf.shared.control.rundir.search_path().

    Raises:
        ValueRefused: a name can't be the name of a producer.
    """

    def __init__(self, names: Sequence[str], run_dir: str | None) -> None:
        self._names = list(dict.fromkeys(check_name(name) for name in names))
        self._run_dir = run_dir
        self._watches: dict[str, Watch] = {}

    def update(self) -> list[Seen]:
        """Ask all of them, and return what they say; a named producer is in the list even if it does not run."""
        self._meet(self._names or _running(self._run_dir))
        asked = [asked for watch in self._watches.values() if (asked := watch.ask()) is not None]
        wait(asked, timeout=ANSWER_S)
        seen = [watch.look() for watch in self._watches.values()]
        return seen if self._names else [one for one in seen if not one.missing]

    def close(self) -> None:
        """Hang up on all of them."""
        self._meet([])

    def _meet(self, names: Sequence[str]) -> None:
        for name in self._watches.keys() - set(names):
            self._watches[name].close()
        self._watches = {name: self._watches.get(name) or Watch(name, self._run_dir) for name in names}


def _running(run_dir: str | None) -> list[str]:
    """The names that have a socket, found as zbuf.consumer.reading.connection.producers() looks for them."""
    directories = search_path(run_dir)
    found: set[str] = set()
    for directory in directories:
        with contextlib.suppress(*([RunDirectoryError] if len(directories) > 1 else [])):
            found.update(producer_names(directory))
    return sorted(found)
