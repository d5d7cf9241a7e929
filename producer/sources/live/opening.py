"""Opening live interfaces: the options, and the engines that read packets."""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from zbuf.producer.sources.live.libpcap_interface import LiveInterface
from zbuf.producer.sources.live.netdevice import printable
from zbuf.producer.sources.live.scapy_live import ScapyInterface
from zbuf.shared.arguments import check_fields
from zbuf.shared.errors import InterfaceError, ZbufError
from zbuf.shared.memory.layout import MAX_CAPLEN

log = logging.getLogger("zbuf")

Engine = Literal["auto", "pcap", "scapy"]
Precision = Literal["micro", "nano"]

DEFAULT_KERNEL_BUFFER_BYTES = 16 << 20


@dataclass(frozen=True)
class LiveOptions:
    """How interfaces are opened; tcpdump's options."""

    snaplen: int = MAX_CAPLEN
    promiscuous: bool = True
    kernel_buffer_bytes: int = DEFAULT_KERNEL_BUFFER_BYTES
    immediate: bool = False
    direction: str = "inout"
    expression: str = ""
    linktype: str | None = None
    """The name of a link type; None for the usual one."""
    time_stamp_type: str | None = None
    """The name of who stamps packets, of pcap-tstamp(7); None for the usual one."""
    time_stamp_precision: Precision = "nano"

    def __post_init__(self) -> None:
        check_fields(self)


class Opened(Protocol):
    """An interface that is open for capture, by either engine."""

    name: str
    """As of os.fsdecode()."""
    linktype: int
    warnings: list[str]

    def statistics(self) -> tuple[int, int, int]:
        """(received, dropped by the kernel, dropped by the interface), in packets."""

    def close(self) -> None:
        """Close it; its statistics stay."""


def open_one(name: str, options: LiveOptions, engine: Literal["pcap", "scapy"]) -> Opened:
    """Open an interface.

    Raises:
        InterfaceError: it can't be captured on.
        FilterError: the filter does not compile.
    """
    return _open_pcap(name, options) if engine == "pcap" else _open_scapy(name, options)


def open_all(
    names: Sequence[str], options: LiveOptions, engine: Engine
) -> tuple[list[Opened], Literal["pcap", "scapy"]]:
    """Open interfaces, all by one engine: the pump runs one source at a time.

    Returns:
        What was opened, and the engine; "auto" is pcap, and scapy where libpcap can't open one of them.

    Raises:
        InterfaceError: one of them can't be captured on, or is named twice.
        FilterError: the filter does not compile.
    """
    _check_names(names)
    if engine != "auto":
        return _open_each(names, options, engine), engine
    try:
        return _open_each(names, options, "pcap"), "pcap"
    except InterfaceError as error:
        with contextlib.suppress(ZbufError, OSError):
            opened = _open_each(names, options, "scapy")
            log.info("%s; scapy can open it, and reads the packets", error)
            return opened, "scapy"
        raise


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise InterfaceError("no interface: name one with -i; zbufd interfaces lists what there is")
    for name in names:
        if list(names).count(name) > 1:
            raise InterfaceError(f"{printable(name)}: named twice: one -i is enough")


def _open_each(names: Sequence[str], options: LiveOptions, engine: Literal["pcap", "scapy"]) -> list[Opened]:
    opened: list[Opened] = []
    try:
        for name in names:
            opened.append(open_one(name, options, engine))
    except BaseException:
        for one in opened:
            one.close()
        raise
    for warning in (warning for one in opened for warning in one.warnings):
        log.warning("%s", warning)
    return opened


def _open_pcap(name: str, options: LiveOptions) -> LiveInterface:
    return LiveInterface(
        name,
        snaplen=options.snaplen,
        promiscuous=options.promiscuous,
        buffer_bytes=options.kernel_buffer_bytes,
        immediate=options.immediate,
        direction=options.direction,
        expression=options.expression,
        linktype=options.linktype,
        time_stamp_type=options.time_stamp_type,
        time_stamp_precision=options.time_stamp_precision,
    )


def _open_scapy(name: str, options: LiveOptions) -> ScapyInterface:
    if options.linktype or options.time_stamp_type or options.time_stamp_precision != "nano":
        raise InterfaceError(
            f"{printable(name)}: scapy takes link types and time stamps as they come: use --engine pcap"
        )
    return ScapyInterface(
        name,
        options.snaplen,
        options.promiscuous,
        options.direction,
        options.expression,
        options.kernel_buffer_bytes,
    )
