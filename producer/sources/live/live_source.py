"""Live interfaces as one source that does not end: what is lost is reported, and picked up when it returns."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from zbuf.producer.compiling import CompilerProcess, dismiss, prepare
from zbuf.producer.filters import compile_as, no_longer_compile_as
from zbuf.producer.sources.live.libpcap_interface import LiveFilters, LiveInterface, has_ring
from zbuf.producer.sources.live.libpcap_live import LiveCapture
from zbuf.producer.sources.live.netdevice import index_of, is_up, name_of, printable
from zbuf.producer.sources.live.opening import Engine, LiveOptions, Opened, open_all, open_one
from zbuf.producer.sources.live.scapy_live import ScapyInterface
from zbuf.producer.sources.python import RawPacket
from zbuf.shared.arguments import checked
from zbuf.shared.control.statistics import InterfaceState, InterfaceStatistics
from zbuf.shared.errors import InterfaceError, ZbufError
from zbuf.shared.memory.pcapng import Interface

log = logging.getLogger("zbuf")

Submit = Callable[[Callable[[], None]], "Future[None]"]

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0
_LOOK_S = 0.2


class _Place:
    """One of the source's interfaces, whatever becomes of it.

    The kernel knows it by number, so a capture goes on when the interface gets a new name. For readers and in messages
    it keeps the name that it was first opened by.
    """

    def __init__(self, opened: Opened) -> None:
        self.name = opened.name
        self.shown = printable(opened.name)
        self.linktype = opened.linktype
        self.opened: Opened = opened
        self.state: InterfaceState = "up"
        self.lost = 0
        self.retry_at_s = 0.0
        self.retry_after_s = _FIRST_RETRY_S
        self._before = (0, 0, 0)  # the counts of the interfaces that were here before
        self._index = index_of(self.name)
        self._named = self.name

    def counts(self) -> tuple[int, int, int]:
        """(received, dropped by the kernel, dropped by the interface), of all that were opened here."""
        received, dropped, missed = (a + b for a, b in zip(self._before, self.opened.statistics(), strict=True))
        return received, dropped, missed

    def note_loss(self) -> None:
        self.state = "lost"
        self.lost += 1
        self.retry_after_s = _FIRST_RETRY_S
        self.retry_at_s = time.monotonic() + self.retry_after_s

    def note_failed_retry(self) -> None:
        self.retry_after_s = min(2 * self.retry_after_s, _LONGEST_RETRY_S)
        self.retry_at_s = time.monotonic() + self.retry_after_s

    def name_to_open(self) -> str:
        """What it is called now; its first name where the kernel has it no more."""
        return (None if self._index is None else name_of(self._index)) or self.name

    def replace(self, opened: Opened) -> None:
        self._before = self.counts()
        self.opened = opened
        self._index = index_of(opened.name)
        self._named = opened.name
        self.state = "up"

    def is_there(self) -> bool:
        """Whether the kernel still has the interface, under any name; always true for devices such as any or nflog."""
        if self._index is None:
            return True
        try:
            name = name_of(self._index)
        except OSError:  # it does not say that the interface is gone
            return True
        if name is not None and name != self._named:
            self._named = name
            log.info("%s: its name is %s now: the capture goes on", self.shown, printable(name))
        return name is not None

    def report_state(self) -> None:
        """Say so when it goes down, or comes up again: it stays open through both."""
        up = is_up(self._named)
        if not up and self.state == "up":
            self.state = "down"
            log.warning("%s: is down", self.shown)
        elif up and self.state == "down":
            self.state = "up"
            log.info("%s: is up again", self.shown)


class LiveSource:
    """Packets of live interfaces, from its making on.

    Args:
        names: the interfaces, as of os.fsdecode(), in the order of their numbers; or one interface.
        options: how to open them; by default as tcpdump does.
        engine: "pcap" for libpcap, "scapy" for scapy's sockets, "auto" for scapy where libpcap can't open one of them.

    Raises:
        InterfaceError: one of them can't be captured on.
        FilterError: the filter does not compile.
        TypeError: an argument is of the wrong type.
    """

    @checked
    def __init__(
        self,
        names: str | Sequence[str],
        options: LiveOptions = LiveOptions(),  # noqa: B008  (it is frozen)
        engine: Engine = "auto",
    ) -> None:
        self.options = options
        opened, self.engine = open_all([names] if isinstance(names, str) else names, options, engine)
        self._places = [_Place(one) for one in opened]
        self._drops_marked = [0] * len(opened)
        self._scapy_bytes = [0] * len(opened)
        self._stopping = threading.Event()
        self._looked_s = 0.0
        self._filters: dict[int, LiveFilters] = {}  # by link type
        self._compiler: CompilerProcess | None = None
        try:
            self._open_filters()
            self.native = LiveCapture(opened, self._on_lost) if self.engine == "pcap" else None  # type: ignore[arg-type]
        except BaseException:
            self.close()
            raise
        self.interfaces = [Interface(printable(one.name), one.linktype) for one in opened]

    def __repr__(self) -> str:
        return f"<zbuf live source of {', '.join(one.shown for one in self._places)}>"

    @property
    def linktype(self) -> int:
        """LINKTYPE_ value of the first interface."""
        return self._places[0].linktype

    def _open_filters(self) -> None:
        """Have filters of readers mean what a capture filter does, where packets come from the kernel's ring."""
        ringed = {one.linktype: one.name for one in self._places if self.engine == "pcap" and has_ring(one.name)}
        for linktype, name in ringed.items():
            filters = self._filters[linktype] = LiveFilters(name, self.options.linktype)
            compile_as(linktype, filters.compile)
        asked = self.options.linktype
        self._compiler = prepare([(linktype, name, asked) for linktype, name in ringed.items()])

    def passes(self, count: int) -> Iterator[LiveCapture | Iterator[RawPacket | None]]:  # noqa: ARG002
        """One pass that does not end, whatever `count` is: see zbuf.producer.sources.source.Source."""
        yield self.native if self.native is not None else self.packets()

    @contextlib.contextmanager
    def tending(self, submit: Submit) -> Iterator[None]:
        """While this lasts, interfaces that were lost are opened again as soon as they can be.

        Args:
            submit: has the owner of the pump carry something out.
        """
        thread = threading.Thread(target=self._tend, args=(submit,), name="zbuf-interfaces", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            thread.join()

    def close(self) -> None:
        """Close all interfaces; their counts stay. Again does nothing."""
        self._stopping.set()
        compiler, self._compiler = self._compiler, None
        if compiler is not None:
            dismiss(compiler)
        while self._filters:
            linktype, filters = self._filters.popitem()
            no_longer_compile_as(linktype, filters.compile)
            filters.close()
        for place in self._places:
            place.opened.close()

    # ---- the owner of the pump calls these --------------------------------------------------------------------------

    def tick(self) -> None:
        """See what the kernel has dropped, so that the next packets tell of it, and which interfaces are up."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for number, place in enumerate(self._places):
            _, dropped, _ = place.counts()
            if self.native is not None and dropped > self._drops_marked[number]:
                self.native.note_drops(number, dropped - self._drops_marked[number])
                self._drops_marked[number] = dropped
            if place.state == "lost":
                continue
            if self.native is not None and not place.is_there():
                # libpcap looks once, when the interface goes down: it may be there still at that moment.
                self.native.remove(number, "it was removed")
            else:
                place.report_state()

    def statistics(self) -> list[InterfaceStatistics]:
        """What the kernel says of each interface."""
        return [self._statistics_of(number, place) for number, place in enumerate(self._places)]

    def _statistics_of(self, number: int, place: _Place) -> InterfaceStatistics:
        received, dropped, missed = place.counts()
        taken, taken_bytes = self._taken(number, received - dropped)
        return InterfaceStatistics(
            interface=place.shown,
            engine=self.engine,
            state=place.state,
            received=received,
            taken=taken,
            taken_bytes=taken_bytes,
            dropped_by_kernel=dropped,
            dropped_by_interface=missed,
            lost=place.lost,
        )

    def _taken(self, number: int, scapy_packets: int) -> tuple[int, int]:
        if self.native is not None:
            return self.native.taken(number)
        return scapy_packets, self._scapy_bytes[number]

    def _on_lost(self, number: int, why: str) -> None:
        place = self._places[number]
        place.note_loss()
        log.warning("%s: lost: %s: it is picked up again when it returns", place.shown, why)

    # ---- opening again ----------------------------------------------------------------------------------------------

    def _tend(self, submit: Submit) -> None:
        while not self._stopping.wait(_FIRST_RETRY_S):
            for number, place in enumerate(self._places):
                if place.state == "lost" and time.monotonic() >= place.retry_at_s:
                    self._reopen(number, place, submit)

    def _reopen(self, number: int, place: _Place, submit: Submit) -> None:
        try:
            opened = open_one(place.name_to_open(), self.options, self.engine)
            if opened.linktype != place.linktype:
                opened.close()
                raise InterfaceError(f"{place.shown}: it returned with link type {opened.linktype}")
        except (ZbufError, OSError):
            place.note_failed_retry()
            return

        def install() -> None:
            place.replace(opened)
            if isinstance(opened, LiveInterface) and self.native is not None:
                self.native.install(number, opened)

        submit(install).result()
        log.info("%s: is back", place.shown)

    # ---- packets, where scapy reads them ----------------------------------------------------------------------------

    def packets(self) -> Iterator[RawPacket | None]:
        """The packets of scapy's sockets; None now and then while there is none."""
        while not self._stopping.is_set():
            sockets = {
                place.opened: number
                for number, place in enumerate(self._places)
                if place.state != "lost" and isinstance(place.opened, ScapyInterface)
            }
            found = False
            for one in ScapyInterface.wait(list(sockets)):
                try:
                    packet = one.receive(sockets[one])
                except OSError as error:
                    one.close()
                    self._on_lost(sockets[one], error.strerror or str(error))
                    continue
                found = True
                if packet is not None:
                    self._scapy_bytes[packet.interface] += packet.wirelen or 0
                    yield packet
            if not found:
                yield None
