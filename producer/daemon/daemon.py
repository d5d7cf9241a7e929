"""zbufd capture: a live capture as a service, from opening the interfaces to the last report."""

import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from zbuf.producer.daemon import logs
from zbuf.producer.daemon.configuration import CHANGEABLE, Configuration, differences
from zbuf.producer.daemon.systemd import Notifier
from zbuf.producer.producer import Producer
from zbuf.producer.serving.counts import add_ledgers, ledger_dict
from zbuf.producer.sources.live.interfaces import resolve
from zbuf.producer.sources.live.live_source import LiveSource
from zbuf.shared.cli import privileges
from zbuf.shared.cli.claiming import claim
from zbuf.shared.cli.process import on_end, raise_descriptor_limit
from zbuf.shared.control.rundir import run_directory
from zbuf.shared.control.rundir_place import ProducerDirectory
from zbuf.shared.control.statistics import PACKET_COUNTS, Ledger, Statistics
from zbuf.shared.errors import ZbufError
from zbuf.shared.memory.segment import check_space
from zbuf.shared.names import fit_name, linktypes_of

if TYPE_CHECKING:
    from zbuf.producer.daemon.metrics import MetricsServer

log = logging.getLogger("zbuf")

_ANSWER_S = 2.0
_END_S = 0.5
_STATUS_S = 5.0


class Daemon:
    """A capture that serves readers until SIGTERM or SIGINT.

    Args:
        configuration: what to capture, and for whom.
        reload: reads the configuration again; None if there is no configuration file.

    The constructor opens everything that takes privileges, and then gives the privileges up.

    Raises:
        ZbufError: an interface, directory, address or name can't be used.
    """

    def __init__(self, configuration: Configuration, reload: Callable[[], Configuration] | None) -> None:
        self._configuration = configuration
        self._reload = reload
        self._notifier = Notifier()
        self._asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stopping = False
        self._producer: Producer | None = None
        raise_descriptor_limit()
        check_space(configuration.buffer_bytes)
        self._watch_signals()
        with contextlib.ExitStack() as undo:
            self._metrics = self._open_metrics(undo)
            names = resolve(configuration.interface)
            # Before the interfaces are open: what helps to remove it must not hold them open, too.
            place = claim(
                run_directory(configuration.run_dir),
                configuration.name or _name_of(names[0]),
                socket_mode=configuration.socket_mode,
                user=configuration.user,
                gid=configuration.gid,
            )
            undo.callback(place.release)
            self._source = LiveSource(names, configuration.live_options, configuration.engine)
            undo.callback(self._source.close)
            privileges.drop(configuration.user, configuration.gid, privileges.CAP_NET_RAW)
            self._producer = self._make_producer(place)
            undo.pop_all()

    def _open_metrics(self, undo: contextlib.ExitStack) -> "MetricsServer | None":
        if self._configuration.address is None:
            return None
        from zbuf.producer.daemon.metrics import MetricsServer

        server = MetricsServer(*self._configuration.address)
        undo.callback(server.close)
        return server

    def _make_producer(self, place: ProducerDirectory) -> Producer:
        configuration = self._configuration
        return Producer(
            place.name,
            interfaces=self._source.interfaces,
            buffer_size=configuration.buffer_bytes,
            place=place,
            linger_s=configuration.linger,
            limits=configuration.limits,
            allow=configuration.allow,
            snaplen=configuration.live_options.snaplen,
            salvage_dir=configuration.salvage,
        )

    def run(self) -> None:
        """Capture until a signal says stop; then flush, wait for the readers up to `linger` seconds, and report."""
        assert self._producer is not None  # noqa: S101  (the constructor makes it)
        producer = self._producer
        with self._attended(producer), producer:
            if self._stopping:
                producer.stop()
            self._say_ready(producer)
            producer.publish(self._source)
            self._notifier.send(STOPPING=1, STATUS="waiting for the readers")
        log.info("%s", _summary(producer.stats()), extra={"data": _numbers(producer.stats())})
        self._source.close()

    def _say_ready(self, producer: Producer) -> None:
        if self._metrics is not None:
            self._metrics.start(lambda: producer.stats(timeout_s=_ANSWER_S), self._sickness)
            log.info("metrics and health at http://%s:%d/", self._metrics.host, self._metrics.port)
        log.info(
            "capturing on %s by %s, link-type %s, snapshot length %d bytes: readers connect to %s in %s",
            ", ".join(one.name for one in self._source.interfaces),
            self._source.engine,
            linktypes_of(one.linktype for one in self._source.interfaces),
            self._source.options.snaplen,
            producer.name,
            producer.run_dir,
        )
        self._notifier.send(READY=1, STATUS=f"capturing as {producer.name}")

    # ---- signals ----------------------------------------------------------------------------------------------------

    def _watch_signals(self) -> None:
        on_end(self._stop)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._ask)

    def _stop(self) -> None:
        self._stopping = True
        if self._producer is not None:
            self._producer.stop()

    def _ask(self, number: int, _frame: object) -> None:
        """Leave the signal to the attendant: a handler runs in the middle of anything, so it must do little."""
        self._asked.put(number)

    # ---- the attendant: what is done beside the capture -----------------------------------------------------------

    @contextlib.contextmanager
    def _attended(self, producer: Producer) -> Iterator[None]:
        thread = threading.Thread(target=self._attend, args=(producer,), name="zbuf-attendant", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._asked.put(None)
            thread.join(_END_S)
            if self._metrics is not None:
                self._metrics.close()

    def _attend(self, producer: Producer) -> None:
        """Answer signals, report to systemd, and show its watchdog that the capture answers."""
        watchdog_s = self._notifier.watchdog_s
        pause_s = min(_STATUS_S, watchdog_s / 3 if watchdog_s else _STATUS_S)
        while True:
            try:
                asked = self._asked.get(timeout=pause_s)
            except queue.Empty:
                with _logged():
                    self._report_health()
                continue
            if asked is None:
                return
            with _logged():
                if asked == signal.SIGUSR1:
                    now = producer.stats()
                    log.info("%s", _summary(now), extra={"data": _numbers(now)})
                else:
                    self._apply_reload(producer)

    def _report_health(self) -> None:
        now = self._answer()
        if now is None:
            log.error("the capture has not answered within %g s", _ANSWER_S)
        elif not self._serves():
            log.error("the control socket has not been served within %g s", _ANSWER_S)
        else:
            self._notifier.send(WATCHDOG=1, STATUS=_summary(now))

    def _answer(self) -> Statistics | None:
        """The capture's statistics; None if it does not answer in time."""
        assert self._producer is not None  # noqa: S101
        with contextlib.suppress(TimeoutError):
            return self._producer.stats(timeout_s=_ANSWER_S)
        return None

    def _serves(self) -> bool:
        """Whether clients are answered in time, as far as that does not depend on them."""
        assert self._producer is not None  # noqa: S101
        return self._producer.answers(_ANSWER_S)

    def _sickness(self) -> str | None:
        """What is wrong, for the health check; None if the capture is well."""
        now = self._answer()
        if now is None:
            return f"the capture has not answered within {_ANSWER_S:g} s"
        if not self._serves():
            return f"the control socket has not been served within {_ANSWER_S:g} s"
        lost = [one.interface for one in now.live if one.state == "lost"]
        return f"lost: {', '.join(lost)}" if len(lost) == len(now.live) else None

    def _apply_reload(self, producer: Producer) -> None:
        if self._reload is None:
            log.warning("SIGHUP: there is no configuration file to reload")
            return
        self._notifier.send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            new = self._reload()
            changed = differences(self._configuration, new)
            producer.set_rules(new.allow, new.limits)
        except ZbufError as error:
            log.error("reload: %s: the old configuration stays", error)
        else:
            producer.linger_s = new.linger
            logs.set_level(new.log_level)
            self._configuration = _with_changeable(self._configuration, new)
            log.info("reloaded: %s", ", ".join(sorted(changed & CHANGEABLE)) or "nothing has changed")
            if changed - CHANGEABLE:
                log.warning("reload: %s: changes with the next start only", ", ".join(sorted(changed - CHANGEABLE)))
        self._notifier.send(READY=1)


def _with_changeable(old: Configuration, new: Configuration) -> Configuration:
    """The configuration in force after a reload."""
    changed = {key.replace("-", "_"): getattr(new, key.replace("-", "_")) for key in CHANGEABLE}
    return msgspec.structs.replace(old, **changed)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Log any exception of the block: whatever goes wrong here, the capture goes on."""
    try:
        yield
    except Exception:
        log.exception("a signal could not be answered: this is a bug of zbuf")


def _name_of(interface: str) -> str:
    """The default name of a capture: its first interface's, fitted to the rules for names."""
    return fit_name(interface)


def _all_ledgers(now: Statistics) -> Ledger:
    return add_ledgers([now.closed, *now.descriptors])


def _summary(now: Statistics) -> str:
    """A line for people."""
    total = _all_ledgers(now)
    readers = sum(len(one.readers) for one in now.descriptors)
    return (
        f"{now.producer}: {now.offered} packets captured, "
        f"{sum(one.dropped_by_kernel for one in now.live)} dropped by kernel, "
        f"{sum(one.dropped_by_interface for one in now.live)} dropped by interface; "
        f"{readers} readers on {len(now.descriptors)} descriptors: "
        + ", ".join(f"{count} {name}" for name, count in ledger_dict(total).items() if name in PACKET_COUNTS)
        + f", {total.received_bytes} bytes received"
    )


def _numbers(now: Statistics) -> dict[str, object]:
    """The same numbers for programs."""
    return {
        "producer": now.producer,
        "captured": now.offered,
        "dropped_by_kernel": sum(one.dropped_by_kernel for one in now.live),
        "dropped_by_interface": sum(one.dropped_by_interface for one in now.live),
        "descriptors": len(now.descriptors),
        "readers": sum(len(one.readers) for one in now.descriptors),
        "evicted": now.evicted,
        "refused": now.refused,
        "ledger": ledger_dict(_all_ledgers(now)),
    }
