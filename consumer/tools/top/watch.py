"""How zbuf top asks: one connection to each producer, one request for each update, and nobody waits for the silent.

Each request is made in a thread of its own, which waits for the answer as long as it takes. An update waits for those
that were asked just now, and not for long; whoever owes an answer from an earlier update is not waited for again, and
not asked again either.
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
from zbuf.shared.control.rundir import producer_names, search_path
from zbuf.shared.control.statistics import Statistics
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, RunDirectoryError, ValueRefused
from zbuf.shared.names import check_name

ANSWER_S = 1.0
"""How long an update waits for answers: a capture that is busy takes milliseconds."""
REFUSED_S = 10.0
"""How long a producer that refuses is let alone: it logs each refusal."""


@dataclass(frozen=True)
class Seen:
    """One producer, at one update."""

    name: str
    found: Compared | None = None
    problem: str = ""
    """Why there are no statistics, where there are none."""
    missing: bool = False
    """Nobody of that name runs."""


class Watch(Closing):
    """One producer, for as long as it is looked at; another one of the same name may take its place."""

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
        """Ask, and return what will have the answer; None where an earlier one is still to come, or was no."""
        now_s = time.monotonic()
        if self._asked is not None or (self._refused is not None and now_s < self._asked_s + REFUSED_S):
            return None
        self._asked, self._asked_s, self._refused = Future(), now_s, None
        Thread(target=self._answer, args=(self._asked,), name="zbuf-top", daemon=True).start()
        return self._asked

    def look(self) -> Seen:
        """What has come of it."""
        if self._refused is not None:
            return self._refused
        if self._asked is None or not self._asked.done():
            return Seen(self.name, problem=f"has not answered for {time.monotonic() - self._asked_s:.0f} s")
        answer, self._asked = self._asked, None
        try:
            return self._seen(answer.result())
        except (ProducerNotFound, ValueRefused) as error:  # some other file may be called like a socket
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
            except (ControlError, OSError):  # it has ended, and may have begun anew
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
    """All producers that run, or those that are named.

    Args:
        names: which; none for all that run, whenever it is looked.
        run_dir: where they are; see zbuf.shared.control.rundir.search_path().

    Raises:
        ValueRefused: one of the names can't be a producer's.
    """

    def __init__(self, names: Sequence[str], run_dir: str | None) -> None:
        self._names = list(dict.fromkeys(check_name(name) for name in names))
        self._run_dir = run_dir
        self._watches: dict[str, Watch] = {}

    def update(self) -> list[Seen]:
        """Ask all of them, and return what they say; a named one is among them though it does not run."""
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
    """The names that have a socket, as zbuf.consumer.reading.reader.producers() looks for them."""
    directories = search_path(run_dir)
    found: set[str] = set()
    for directory in directories:
        with contextlib.suppress(*([RunDirectoryError] if len(directories) > 1 else [])):
            found.update(producer_names(directory))
    return sorted(found)
