"""zbuf extcap: running captures as interfaces of Wireshark and tshark.

Wireshark starts every program in its extcap folders once for each question, see extcap(4): which interfaces there are,
which link type they have, what can be set, whether a filter is right. Then it starts one once more, to capture into a
fifo. Answers are sentences on standard output, such as `interface {value=zbuf-lab}{display=zbuf: lab (eth0)}`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import typer
from msgspec import Meta

from zbuf import __version__
from zbuf.consumer import Connection, Reader, connect, producers
from zbuf.consumer.tools.extcap.fifo import capture_into
from zbuf.consumer.tools.extcap.install import install_script, remove_script
from zbuf.shared.cli.options import annotations, parse_size, takes
from zbuf.shared.control.settings import Direction
from zbuf.shared.errors import Refused, ValueRefused
from zbuf.shared.memory.layout import MAX_CAPLEN, PAGE_BYTES
from zbuf.shared.names import printable

_PREFIX = "zbuf-"
_NO_BRACES = str.maketrans("{}", "__")
_HELP = "https://www.wireshark.org/docs/man-pages/extcap.html"

_DLT_OF_LINKTYPE = {100: 11, 101: 12, 102: 15, 103: 16, 106: 19}
"""The DLT_ values of Linux that differ from their LINKTYPE_ values: https://www.tcpdump.org/linktypes.html."""

_DLTS = {
    0: ("NULL", "BSD loopback"),
    1: ("EN10MB", "Ethernet"),
    9: ("PPP", "PPP"),
    12: ("RAW", "Raw IP"),
    105: ("IEEE802_11", "802.11"),
    108: ("LOOP", "OpenBSD loopback"),
    113: ("LINUX_SLL", "Linux cooked v1"),
    127: ("IEEE802_11_RADIO", "802.11 plus radiotap header"),
    147: ("USER0", "User-defined 0"),
    187: ("BLUETOOTH_HCI_H4", "Bluetooth HCI UART transport layer"),
    189: ("USB_LINUX", "USB with Linux header"),
    192: ("PPI", "Per-Packet Information"),
    195: ("IEEE802_15_4", "IEEE 802.15.4 with FCS"),
    201: ("BLUETOOTH_HCI_H4_WITH_PHDR", "Bluetooth HCI UART transport layer plus pseudo-header"),
    220: ("USB_LINUX_MMAPPED", "USB with padded Linux header"),
    227: ("CAN_SOCKETCAN", "CAN-bus with SocketCAN headers"),
    228: ("IPV4", "Raw IPv4"),
    229: ("IPV6", "Raw IPv6"),
    253: ("NETLINK", "Linux netlink"),
    276: ("LINUX_SLL2", "Linux cooked v2"),
}


# ---- what can be set ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """How Wireshark's dialog asks for an option: see extcap(4)."""

    display: str
    type: str
    tooltip: str
    more: str = ""
    """More parts of the sentence."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """The values of a selector, and how each is shown."""

    def sentences(self, number: int, call: str, default: object) -> Iterator[str]:
        """The question, as `zbuf extcap --extcap-config` answers it."""
        kept = f"{{default={default}}}" if default and not self.choices else ""
        yield (
            f"arg {{number={number}}}{{call=--{call}}}{{display={self.display}}}{{type={self.type}}}"
            f"{self.more}{kept}{{tooltip={self.tooltip}}}"
        )
        for value, display in self.choices.items():
            is_default = str(value == default).lower()
            yield f"value {{arg={number}}}{{value={value}}}{{display={display}}}{{default={is_default}}}"


_HIDDEN = typer.Option(hidden=True)


class _Settings(msgspec.Struct, frozen=True, rename="kebab"):
    """The settings of a capture: each field is an option, and a question in Wireshark's dialog."""

    join: Annotated[
        str,
        _HIDDEN,
        _Question(
            "Group",
            "string",
            "Share one copy of the packets with all readers that name this group; empty for a copy of your own",
        ),
    ] = ""
    snaplen: Annotated[
        int,
        Meta(ge=1, le=MAX_CAPLEN),
        typer.Option(hidden=True),
        _Question("Snapshot length", "integer", "Bytes to keep of each packet", f"{{range=1,{MAX_CAPLEN}}}"),
    ] = MAX_CAPLEN
    buffer_size: Annotated[
        str,
        _HIDDEN,
        _Question(
            "Buffer size",
            "string",
            "Of each of the two buffers, such as 8M; larger ones drop less",
            "{placeholder=the producer's choice}{validation=^[0-9]+ *[kKmMgG]?$}",
        ),
    ] = ""
    direction: Annotated[
        Direction,
        _HIDDEN,
        _Question(
            "Direction",
            "selector",
            "Which packets to capture, by direction",
            choices={"inout": "in and out", "in": "in", "out": "out"},
        ),
    ] = "inout"
    immediate: Annotated[
        Literal["true", "false"],
        _HIDDEN,
        _Question(
            "Immediate mode",
            "boolean",
            "Show each packet at once, not only when a buffer is full or a tenth of a second has passed",
        ),
    ] = "true"

    def __post_init__(self) -> None:
        self.buffer_bytes  # noqa: B018  (a wrong size is a usage error, before the fifo is opened)

    @property
    def buffer_bytes(self) -> int | None:
        """The size of a buffer in bytes; None for the producer's choice."""
        return parse_size("--buffer-size", self.buffer_size) if self.buffer_size else None

    def connect(self, name: str, expression: str, run_dir: str | None) -> Reader:
        """Connect as set; with nothing set but a group, take that group's settings as they are."""
        if self.join and not expression and self == _Settings(join=self.join):
            return connect(name, join=self.join, run_dir=run_dir)
        return connect(
            name,
            filter=expression,
            join=self.join or None,
            snaplen=self.snaplen,
            buffer_size=self.buffer_bytes,
            direction=self.direction,
            immediate=self.immediate == "true",
            run_dir=run_dir,
        )


def _questions() -> Iterator[str]:
    for number, each in enumerate(msgspec.structs.fields(_Settings)):
        question = next(one for one in annotations(each.type) if isinstance(one, _Question))
        yield from question.sentences(number, each.encode_name, each.default)


# ---- the command ----------------------------------------------------------------------------------------------------


@takes(_Settings)
def extcap(
    settings: dict[str, Any],
    context: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="Have Wireshark and tshark list the captures.")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Have them list the captures no longer.")] = False,
    folder: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="The extcap folder, if not the personal one.")
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="DIR", help="The directory of the sockets; --install keeps it.")
    ] = None,
    interfaces: Annotated[bool, typer.Option("--extcap-interfaces", hidden=True)] = False,
    interface: Annotated[str | None, typer.Option("--extcap-interface", hidden=True)] = None,
    dlts: Annotated[bool, typer.Option("--extcap-dlts", hidden=True)] = False,
    config: Annotated[bool, typer.Option("--extcap-config", hidden=True)] = False,
    capture: Annotated[bool, typer.Option("--capture", hidden=True)] = False,
    fifo: Annotated[str | None, typer.Option("--fifo", hidden=True)] = None,
    capture_filter: Annotated[str | None, typer.Option("--extcap-capture-filter", hidden=True)] = None,
) -> None:
    """Show running captures as interfaces in Wireshark and tshark, which call this command once it is installed."""
    if install and uninstall:
        raise typer.BadParameter("--install or --uninstall: choose one")
    if install or uninstall:
        if context.args:
            raise typer.BadParameter(f"{context.args[0]!r} can't be used with --install or --uninstall: leave it out")
        sys.stdout.write((install_script(folder, run_dir) if install else remove_script(folder)) + "\n")
    elif interfaces:
        _answer(_interfaces(run_dir))
    elif interface is None:
        raise typer.BadParameter("give --install or --uninstall; Wireshark gives the other options")
    elif dlts:
        _answer([_dlt(_producer(interface), run_dir)])
    elif config:
        _answer(_questions())
    elif capture:
        if not fifo:
            raise typer.BadParameter("--capture needs --fifo")
        wanted = _Settings(**settings)
        capture_into(fifo, lambda: wanted.connect(_producer(interface), capture_filter or "", run_dir))
    elif capture_filter is not None:
        _answer(_complaints(_producer(interface), capture_filter, run_dir))
    else:
        raise typer.BadParameter("--extcap-interface needs --capture, or one of Wireshark's questions")


def _answer(lines: Iterable[str]) -> None:
    """Print sentences as UTF-8, whatever the locale: Wireshark reads nothing else."""
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def _interfaces(run_dir: str | None) -> Iterator[str]:
    yield f"extcap {{version={__version__}}}{{help={_HELP}}}"
    for one in producers(run_dir):
        where = _value(", ".join(one.interfaces))
        yield f"interface {{value={_PREFIX}{one.producer}}}{{display=zbuf: {one.producer} ({where})}}"


def _value(text: str) -> str:
    """A text that others made up, as a value in a sentence, which braces would end."""
    return printable(text).translate(_NO_BRACES)


def _producer(interface: str) -> str:
    """The name of the producer behind one of Wireshark's interfaces."""
    if not interface.startswith(_PREFIX):
        raise ValueRefused(f"interface {interface!r} is not one of zbuf's, which are called {_PREFIX}NAME: see zbuf ls")
    return interface.removeprefix(_PREFIX)


def _dlt(name: str, run_dir: str | None) -> str:
    with Connection(name, run_dir) as connection:
        linktype = connection.stats().linktypes[0]  # Wireshark wants one here, and takes each interface's from the file
    number = _DLT_OF_LINKTYPE.get(linktype, linktype)
    short, display = _DLTS.get(number, (f"DLT{number}", f"Link type {linktype}"))
    return f"dlt {{number={number}}}{{name={short}}}{{display={display}}}"


def _complaints(name: str, expression: str, run_dir: str | None) -> list[str]:
    """What is wrong with a filter, in one line; nothing if it is right.

    Only the producer has libpcap, so we connect with the filter. If it refuses, we connect without: if that is refused,
    too, the error has nothing to do with the filter, and is raised.
    """
    try:
        connect(name, filter=expression, buffer_size=PAGE_BYTES, run_dir=run_dir).close()
    except (Refused, ValueRefused) as error:
        connect(name, buffer_size=PAGE_BYTES, run_dir=run_dir).close()
        return [" ".join(str(error).split())]
    return []
