"""zbuf extcap: running captures as interfaces of Wireshark and tshark.

Wireshark starts every program in its extcap folders once for each question, see extcap(4): which interfaces there are,
of which link type, what can be set, whether a filter is right; and then once more for a capture, into a fifo. All that
an answer consists of is sentences such as `interface {value=zbuf-lab}{display=zbuf: lab (eth0)}` on standard output.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import typer

from zbuf import __version__
from zbuf.consumer import Connection, Reader, connect, producers
from zbuf.consumer.tools.extcap.capture import capture_into
from zbuf.consumer.tools.extcap.install import install_script, remove_script
from zbuf.shared.cli.commandline import parse_size, whole_number
from zbuf.shared.control.settings import Direction
from zbuf.shared.errors import Refused, ValueRefused
from zbuf.shared.memory.layout import MAX_CAPLEN, PAGE_BYTES

TOLERANT = {"ignore_unknown_options": True, "allow_extra_args": True}
"""The command's settings: a Wireshark of another version may say what is not known here."""

_PREFIX = "zbuf-"
_HELP = "https://www.wireshark.org/docs/man-pages/extcap.html"

_CONFIG = f"""\
arg {{number=0}}{{call=--join}}{{display=Group}}{{type=string}}\
{{tooltip=Share one copy of the packets with all readers that name this group; empty for a copy of your own}}
arg {{number=1}}{{call=--snaplen}}{{display=Snapshot length}}{{type=integer}}\
{{range=1,{MAX_CAPLEN}}}{{default={MAX_CAPLEN}}}{{tooltip=Bytes to keep of each packet}}
arg {{number=2}}{{call=--buffer-size}}{{display=Buffer size}}{{type=string}}{{placeholder=the producer's choice}}\
{{validation=^[0-9]+ *[kKmMgG]?$}}{{tooltip=Of each of the two buffers, such as 8M; larger ones drop less}}
arg {{number=3}}{{call=--direction}}{{display=Direction}}{{type=selector}}\
{{tooltip=Which packets, of those whose direction is known}}
value {{arg=3}}{{value=inout}}{{display=in and out}}{{default=true}}
value {{arg=3}}{{value=in}}{{display=in}}{{default=false}}
value {{arg=3}}{{value=out}}{{display=out}}{{default=false}}
arg {{number=4}}{{call=--immediate}}{{display=Immediate mode}}{{type=boolean}}{{default=true}}\
{{tooltip=Show each packet at once, not only when a buffer is full or a tenth of a second has passed}}
"""

_DLT_OF_LINKTYPE = {100: 11, 101: 12, 102: 15, 103: 16, 106: 19}
"""Where Linux has another DLT_ value for a LINKTYPE_ value: https://www.tcpdump.org/linktypes.html."""

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


def extcap(
    context: typer.Context,
    install: Annotated[bool, typer.Option("--install", help="Have Wireshark and tshark list the captures.")] = False,
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Have them no longer.")] = False,
    folder: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="The extcap folder, if not the personal one.")
    ] = None,
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="DIR", help="Where producers are found; --install keeps it.")
    ] = None,
    interfaces: Annotated[bool, typer.Option("--extcap-interfaces", hidden=True)] = False,
    interface: Annotated[str | None, typer.Option("--extcap-interface", hidden=True)] = None,
    dlts: Annotated[bool, typer.Option("--extcap-dlts", hidden=True)] = False,
    config: Annotated[bool, typer.Option("--extcap-config", hidden=True)] = False,
    capture: Annotated[bool, typer.Option("--capture", hidden=True)] = False,
    fifo: Annotated[str | None, typer.Option("--fifo", hidden=True)] = None,
    capture_filter: Annotated[str | None, typer.Option("--extcap-capture-filter", hidden=True)] = None,
    join: Annotated[str | None, typer.Option("--join", hidden=True)] = None,
    snaplen: Annotated[int, typer.Option("--snaplen", parser=whole_number(1, MAX_CAPLEN), hidden=True)] = MAX_CAPLEN,
    buffer_size: Annotated[str | None, typer.Option("--buffer-size", hidden=True)] = None,
    direction: Annotated[Direction, typer.Option("--direction", hidden=True)] = "inout",
    immediate: Annotated[Literal["true", "false"], typer.Option("--immediate", hidden=True)] = "true",
) -> None:
    """Make running captures interfaces of Wireshark and tshark; they call it, once it is installed."""
    if install and uninstall:
        raise typer.BadParameter("--install or --uninstall: choose one")
    if install or uninstall:
        if context.args:
            raise typer.BadParameter(f"{context.args[0]!r} goes with neither --install nor --uninstall")
        sys.stdout.write((install_script(folder, run_dir) if install else remove_script(folder)) + "\n")
    elif interfaces:
        _answer(_interfaces(run_dir))
    elif interface is None:
        raise typer.BadParameter("say --install or --uninstall; Wireshark says the rest")
    elif dlts:
        _answer([_dlt(_producer(interface), run_dir)])
    elif config:
        _answer([_CONFIG.rstrip()])
    elif capture:
        if not fifo:
            raise typer.BadParameter("--capture needs --fifo")
        settings = _Settings(capture_filter, join, snaplen, buffer_size, direction, immediate)
        capture_into(fifo, lambda: settings.connect(_producer(interface), run_dir))
    elif capture_filter is not None:
        _answer(_complaints(_producer(interface), capture_filter, run_dir))
    else:
        raise typer.BadParameter("--extcap-interface needs --capture, or one of Wireshark's questions")


class _Settings:
    """What was said about a capture."""

    def __init__(
        self,
        expression: str | None,
        join: str | None,
        snaplen: int,
        buffer_size: str | None,
        direction: Direction,
        immediate: Literal["true", "false"],
    ) -> None:
        self._filter = expression or ""
        self._join = join or None
        self._snaplen = snaplen
        self._buffer_size = parse_size("--buffer-size", buffer_size) if buffer_size else None
        self._direction = direction
        self._immediate = immediate == "true"

    def connect(self, name: str, run_dir: str | None) -> Reader:
        if self._join and self._says_nothing():
            return connect(name, join=self._join, run_dir=run_dir)
        return connect(
            name,
            filter=self._filter,
            join=self._join,
            snaplen=self._snaplen,
            buffer_size=self._buffer_size,
            direction=self._direction,
            immediate=self._immediate,
            run_dir=run_dir,
        )

    def _says_nothing(self) -> bool:
        """Whether all is as Wireshark proposes it: who joins a group then takes it as it is."""
        chosen = self._filter, self._snaplen, self._buffer_size, self._direction, self._immediate
        return chosen == ("", MAX_CAPLEN, None, "inout", True)


def _answer(lines: Iterable[str]) -> None:
    """Print sentences; Wireshark takes nothing but UTF-8, whatever the locale."""
    sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))


def _interfaces(run_dir: str | None) -> Iterator[str]:
    yield f"extcap {{version={__version__}}}{{help={_HELP}}}"
    for one in producers(run_dir):
        where = _plain(", ".join(one.interfaces))
        yield f"interface {{value={_PREFIX}{one.producer}}}{{display=zbuf: {one.producer} ({where})}}"


def _plain(text: str) -> str:
    """Text that is a value in a sentence, whatever is in it."""
    return "".join(one if one.isprintable() and one not in "{}" else "_" for one in text)


def _producer(interface: str) -> str:
    """The producer whose interface that is."""
    if not interface.startswith(_PREFIX):
        raise ValueRefused(f"interface {interface!r} is none of zbuf's: those are {_PREFIX}NAME, see zbuf ls")
    return interface.removeprefix(_PREFIX)


def _dlt(name: str, run_dir: str | None) -> str:
    with Connection(name, run_dir) as connection:
        linktype = connection.stats().linktypes[0]  # Wireshark wants one here, and takes each interface's from the file
    number = _DLT_OF_LINKTYPE.get(linktype, linktype)
    short, display = _DLTS.get(number, (f"DLT{number}", f"Link type {linktype}"))
    return f"dlt {{number={number}}}{{name={short}}}{{display={display}}}"


def _complaints(name: str, expression: str, run_dir: str | None) -> list[str]:
    """What is wrong with a filter, a line; nothing where it is right.

    The producer says that, since only it has libpcap; what it refuses without the filter, too, is no verdict on that.
    """
    try:
        connect(name, filter=expression, buffer_size=PAGE_BYTES, run_dir=run_dir).close()
    except (Refused, ValueRefused) as error:
        connect(name, buffer_size=PAGE_BYTES, run_dir=run_dir).close()
        return [" ".join(str(error).split())]
    return []
