"""Live interfaces as one source that does not end: what is lost is reported, and picked up when it returns."""

import contextlib
import fcntl
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

from zbuf.producer.sources.live.libpcap_live import LiveCapture, LiveInterface
from zbuf.producer.sources.live.scapy_live import ScapyInterface
from zbuf.producer.sources.python import RawPacket
from zbuf.shared.control.statistics import InterfaceState, InterfaceStatistics
from zbuf.shared.errors import InterfaceError, ZbufError
from zbuf.shared.memory.layout import MAX_CAPLEN
from zbuf.shared.memory.pcapng import Interface

log = logging.getLogger("zbuf")

Engine = Literal["auto", "pcap", "scapy"]
Submit = Callable[[Callable[[], None]], "Future[None]"]

DEFAULT_KERNEL_BUFFER_BYTES = 16 << 20

_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.1, 5.0
_LOOK_S = 0.2
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True)
class LiveOptions:
    """How interfaces are opened; tcpdump's options."""

    snaplen: int = MAX_CAPLEN
    promiscuous: bool = True
    kernel_buffer_bytes: int = DEFAULT_KERNEL_BUFFER_BYTES
    immediate: bool = False
    direction: str = "inout"
    expression: str = ""


class _Opened(Protocol):
    """An interface, open for capture, whoever reads it."""

    name: str
    linktype: int

    def statistics(self) -> tuple[int, int, int]: ...
    def close(self) -> None: ...


class _Place:
    """One of the source's interfaces, whatever becomes of it."""

    def __init__(self, opened: _Opened) -> None:
        self.name = opened.name
        self.linktype = opened.linktype
        self.opened: _Opened = opened
        self.index = _index_of(self.name)
        self.state: InterfaceState = "up"
        self.lost = 0
        self.retry_at_s = 0.0
        self.retry_after_s = _FIRST_RETRY_S
        self._before = (0, 0, 0)  # what those counted that were here before

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

    def replace(self, opened: _Opened) -> None:
        self._before = self.counts()
        self.opened = opened
        self.index = _index_of(self.name)
        self.state = "up"


class LiveSource:
    """Packets of live interfaces, from its making on.

    Args:
        names: the interfaces, in the order of their numbers.
        options: how to open them.
        engine: "pcap" for libpcap, "scapy" for scapy's sockets, "auto" for scapy where libpcap can't open one of them.

    Raises:
        InterfaceError: one of them can't be captured on, or their link types differ.
        FilterError: the filter does not compile.
    """

    def __init__(self, names: Sequence[str], options: LiveOptions, engine: Engine = "auto") -> None:
        if not names:
            raise InterfaceError("no interface: name one with -i; zbufd interfaces lists what there is")
        for name in names:
            if list(names).count(name) > 1:
                raise InterfaceError(f"{name}: named twice: one -i is enough")
        self.options = options
        opened, self.engine = _open_all(names, options, engine)
        self._places = [_Place(one) for one in opened]
        self._drops_marked = [0] * len(opened)
        self._stopping = threading.Event()
        self._looked_s = 0.0
        try:
            self.native = LiveCapture(opened, self._on_lost) if self.engine == "pcap" else None  # type: ignore[arg-type]
        except BaseException:
            self.close()
            raise
        self.interfaces = [Interface(one.name, one.linktype) for one in opened]
        self.linktype = self.interfaces[0].linktype
        """LINKTYPE_ value of the first interface."""

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
        """Close all interfaces; their counts stay."""
        self._stopping.set()
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
            if self.native is not None and _index_of(place.name) != place.index:
                # libpcap looks once, when the interface goes down: it may be there still at that moment.
                self.native.remove(number, "it was removed")
            else:
                _report_state(place)

    def statistics(self) -> list[InterfaceStatistics]:
        """What the kernel says of each interface."""
        return [self._statistics_of(number, place) for number, place in enumerate(self._places)]

    def _statistics_of(self, number: int, place: _Place) -> InterfaceStatistics:
        received, dropped, missed = place.counts()
        return InterfaceStatistics(
            interface=place.name,
            engine=self.engine,
            state=place.state,
            received=received,
            taken=received - dropped if self.native is None else self.native.packets(number),
            dropped_by_kernel=dropped,
            dropped_by_interface=missed,
            lost=place.lost,
        )

    def _on_lost(self, number: int, why: str) -> None:
        place = self._places[number]
        place.note_loss()
        log.warning("%s: lost: %s: it is picked up again when it returns", place.name, why)

    # ---- opening again ----------------------------------------------------------------------------------------------

    def _tend(self, submit: Submit) -> None:
        while not self._stopping.wait(_FIRST_RETRY_S):
            for number, place in enumerate(self._places):
                if place.state == "lost" and time.monotonic() >= place.retry_at_s:
                    self._reopen(number, place, submit)

    def _reopen(self, number: int, place: _Place, submit: Submit) -> None:
        try:
            opened = _OPENERS[self.engine](place.name, self.options)
            if opened.linktype != place.linktype:
                raise InterfaceError(f"{place.name}: it returned with link type {opened.linktype}")
        except (ZbufError, OSError):
            place.note_failed_retry()
            return

        def install() -> None:
            place.replace(opened)
            if isinstance(opened, LiveInterface) and self.native is not None:
                self.native.install(number, opened)

        submit(install).result()
        log.info("%s: is back", place.name)

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
                    yield packet
            if not found:
                yield None


def _open_pcap(name: str, options: LiveOptions) -> LiveInterface:
    return LiveInterface(
        name,
        snaplen=options.snaplen,
        promiscuous=options.promiscuous,
        buffer_bytes=options.kernel_buffer_bytes,
        immediate=options.immediate,
        direction=options.direction,
        expression=options.expression,
    )


def _open_scapy(name: str, options: LiveOptions) -> ScapyInterface:
    return ScapyInterface(
        name,
        options.snaplen,
        options.promiscuous,
        options.direction,
        options.expression,
        options.kernel_buffer_bytes,
    )


_OPENERS: dict[str, Callable[[str, LiveOptions], LiveInterface | ScapyInterface]] = {
    "pcap": _open_pcap,
    "scapy": _open_scapy,
}


def _open_all(
    names: Sequence[str], options: LiveOptions, engine: Engine
) -> tuple[list[_Opened], Literal["pcap", "scapy"]]:
    """All of them, by one engine: the pump runs one source at a time."""
    if engine != "auto":
        return _open_each(names, options, _OPENERS[engine]), engine
    try:
        return _open_each(names, options, _open_pcap), "pcap"
    except InterfaceError as error:
        with contextlib.suppress(ZbufError, OSError):
            opened = _open_each(names, options, _open_scapy)
            log.info("%s; scapy can open it, and reads the packets", error)
            return opened, "scapy"
        raise


def _open_each(
    names: Sequence[str], options: LiveOptions, opener: Callable[[str, LiveOptions], _Opened]
) -> list[_Opened]:
    opened: list[_Opened] = []
    try:
        for name in names:
            opened.append(opener(name, options))
    except BaseException:
        for one in opened:
            one.close()
        raise
    for one in opened:
        if getattr(one, "warning", None):
            log.warning("%s", one.warning)  # type: ignore[attr-defined]
    return opened


def _report_state(place: _Place) -> None:
    """Say so when an interface goes down, or comes up again: it stays open through both."""
    up = _is_up(place.name)
    if not up and place.state == "up":
        place.state = "down"
        log.warning("%s: is down", place.name)
    elif up and place.state == "down":
        place.state = "up"
        log.info("%s: is up again", place.name)


def _index_of(name: str) -> int | None:
    """The number of a network interface, another one when it is made again; None for what is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def _is_up(name: str) -> bool:
    """Whether the kernel says so (netdevice(7)); what is no network interface always is."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(name.encode()[:15], 0))
        return bool(_IFREQ.unpack(answer)[1] & _IFF_UP)
    return True
