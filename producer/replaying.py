"""Replays from within a program: a thread of it publishes capture files, while the program reads them.

That is for development and tests. For measurements there is zbufd replay, in a process of its own.
"""

import atexit
import contextlib
import itertools
import logging
import math
import tempfile
import threading
import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from zbuf.producer.load.schedule import Schedule
from zbuf.producer.producer import Producer
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.producer.sources.files.stopping import start_deaf
from zbuf.producer.sources.python import File, paths_of
from zbuf.shared.arguments import checked
from zbuf.shared.errors import ProducerExists, ValueRefused
from zbuf.shared.memory.layout import DEFAULT_BUFFER_BYTES
from zbuf.shared.names import NAME_LENGTH_MAX, fit_name, name_from_path

log = logging.getLogger("zbuf")

_LOOK_S = 0.005  # between two looks whether the readers have everything


class Replay:
    """Capture files that a thread of this program publishes; made by replay().

    It begins as soon as `wait_readers` readers are there, and ends when all packets are read. It is a context manager
    that gives the producer's name, and that ends the replay, wherever it is, when the block is left.

    Raises, from close() and at the end of the block:
        ZbufError: a file could not be read to its end.
    """

    def __init__(self, producer: Producer, source: FileSource, schedule: Schedule, *, loops: int, readers: int) -> None:
        self.producer = producer
        """What publishes the files: for its stats(), for one."""
        self._source = source
        self._schedule = schedule
        self._loops, self._readers = loops, readers
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="zbuf-replay", daemon=True)

    def begin(self) -> None:
        """Start to publish."""
        _replays.add(self)
        start_deaf(self._thread)

    @property
    def name(self) -> str:
        """What readers connect to."""
        return self.producer.name

    def __repr__(self) -> str:
        return f"<zbuf replay {self.name!r} of {', '.join(self._source.paths)}: {self.producer.offered} packets so far>"

    def _run(self) -> None:
        try:
            if self.producer.wait_readers(self._readers):
                self.producer.publish(self._source, loops=self._loops, pace=self._schedule.pace())
        except Exception as error:
            self._error = error
        for warning in self._source.warnings:
            log.warning("%s: %s", self.name, warning)
        self.producer.finish()
        self._wait_for_readers()
        self.producer.linger_s = 0  # they have everything, or nobody waits for them any more
        self.producer.close()

    def _wait_for_readers(self) -> None:
        while self.producer.unread and not self._stopping.wait(_LOOK_S):
            pass

    def close(self) -> None:
        """End it now: readers keep what they were given. Again does nothing."""
        self._stopping.set()
        self.producer.stop()
        if self._thread.ident is None:
            self.producer.close()  # it never began
        else:
            self._thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> str:
        return self.name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*([Exception] if error is not None else [])):  # the block's own error is the news
            self.close()


@checked
def replay(
    files: File | Sequence[File],
    *,
    name: str | None = None,
    pps: float | Fraction | None = None,
    mbps: float | Fraction | None = None,
    multiplier: float | Fraction | None = None,
    stamp: str = "file",
    loops: int = 1,
    lossless: bool = True,
    wait_readers: int = 1,
    buffer_size: int | str = DEFAULT_BUFFER_BYTES,
    run_dir: File | None = None,
) -> Replay:
    """Publish capture files from a thread of this program.

    ::

        with replay("x.pcap", pps=1000) as name, connect(name) as reader:
            for packet in reader:
                print(packet.time_ns, packet.caplen)

    Args:
        files: one capture file, or several, read one after the other: see FileSource.
        name: what readers connect to; by default the first file's stem, with a number behind it if that name is taken.
        pps: packets per second; by default at once, as fast as the readers read.
        mbps: megabits (10**6) per second, in place of `pps`.
        multiplier: how many times as fast as recorded, in place of `pps`; 1 for as recorded.
        stamp: "file" keeps the packets' times, "now" gives them those of the replay.
        loops: how often to replay the files; 0 for ever.
        lossless: wait for the readers instead of dropping packets.
        wait_readers: how many readers to wait for before the first packet.
        buffer_size: bytes of each of a reader's two buffers, if the reader does not say; "8M" is a size, too.
        run_dir: where the control socket is made; see Producer.

    Returns:
        A Replay; ``with replay(...) as name`` gives the producer's name.

    Raises:
        CaptureFileError: a file is missing, empty or not a capture.
        ValueRefused: an argument is out of its range, or two rates are given.
        ProducerExists: a producer of that `name` runs.
        TypeError: an argument is of the wrong type.
    """
    schedule = _schedule(stamp, pps=pps, mbps=mbps, multiplier=multiplier)
    if loops < 0 or wait_readers < 0:
        raise ValueRefused(f"loops={loops}, wait_readers={wait_readers}: give 0 or more")
    paths = paths_of(files)
    source = FileSource(paths, once=loops == 1)
    options: dict[str, Any] = {"lossless": lossless, "buffer_size": buffer_size, "run_dir": run_dir}
    producer = _named_producer(name, name_from_path(paths[0]), interfaces=source.interfaces, **options)
    replaying = Replay(producer, source, schedule, loops=loops, readers=wait_readers)
    replaying.begin()
    return replaying


def _schedule(stamp: str, **rates: float | Fraction | None) -> Schedule:
    given: dict[str, Any] = {kind: _exact(kind, rate) for kind, rate in rates.items() if rate is not None}
    if len(given) > 1:
        raise ValueRefused(f"{' and '.join(f'{kind}={rates[kind]}' for kind in given)} are two speeds: give one")
    if stamp not in ("file", "now"):
        raise ValueRefused(f"stamp {stamp!r}: it must be 'file' or 'now'")
    return Schedule(stamp="now" if stamp == "now" else "file", **given)


def _exact(kind: str, rate: float | Fraction) -> Fraction:
    if not 0 < rate < math.inf:
        raise ValueRefused(f"{kind}={rate}: it must be more than 0; leave it out for as fast as the readers read")
    return Fraction(rate).limit_denominator(10**9)


def _named_producer(name: str | None, stem: str, **options: Any) -> Producer:
    """A producer of that name; of the first that is free, if none was chosen."""
    if name is not None:
        return Producer(name, **options)
    for number in itertools.count(1):
        ending = f"-{number}" if number > 1 else ""
        with contextlib.suppress(ProducerExists):
            return Producer(stem[: NAME_LENGTH_MAX - len(ending)] + ending, **options)
    raise AssertionError("unreachable")


class PrivateReplay(Replay):
    """A file for the one reader of connect(file=), which nobody else finds; it ends when that reader leaves.

    Call begin() when the reader is there, or close() where it can't come.

    Args:
        path: the file.

    Raises:
        CaptureFileError: it is missing, empty or not a capture.
    """

    def __init__(self, path: str) -> None:
        source = FileSource([path])
        name = fit_name(f"file:{name_from_path(path)}")
        self._directory = tempfile.TemporaryDirectory(prefix="zbuf-")
        try:
            producer = Producer(name, interfaces=source.interfaces, lossless=True, run_dir=self._directory.name)
        except BaseException:
            self._directory.cleanup()
            raise
        super().__init__(producer, source, Schedule(), loops=1, readers=0)

    @property
    def run_dir(self) -> Path:
        """Where its reader finds it."""
        return Path(self._directory.name)

    def begin(self) -> None:
        """Its reader is there: publish the file, for as long as it stays."""
        self._directory.cleanup()  # nobody else is to come
        super().begin()
        start_deaf(threading.Thread(target=self._stop_when_left, name="zbuf-file", daemon=True))

    def close(self) -> None:
        """End it now, or where its reader could not come."""
        super().close()
        self._directory.cleanup()

    def _stop_when_left(self) -> None:
        self.producer.wait_readers_gone()
        self.producer.stop()

    def _wait_for_readers(self) -> None:
        self.producer.wait_readers_gone()  # its requests are answered until then


_replays: "weakref.WeakSet[Replay]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Have no thread left in native code when the interpreter ends."""
    for one in list(_replays):
        with contextlib.suppress(Exception):
            one.close()
