"""A live interface read by scapy, for what libpcap can't open: raw bytes, nothing is dissected."""

import contextlib
import errno
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from zbuf.producer.sources.live.netdevice import printable
from zbuf.producer.sources.python import RawPacket, linktype_of, nanoseconds
from zbuf.shared.errors import FilterError, InterfaceError

_POLL_S = 0.1
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE = 33
_STATISTICS = struct.Struct("II")  # struct tpacket_stats of packet(7): packets, drops; zeroed by being read


class ScapyInterface:
    """One of scapy's `conf.L2listen` sockets.

    Args:
        name: the interface's.
        snaplen: bytes to keep of each packet.
        promiscuous: whether to capture packets that are addressed to other machines, too.
        direction: "inout"; scapy does not tell it.
        expression: a pcap-filter(7), set before the first packet is taken.
        buffer_bytes: of the kernel's buffer, as far as the kernel lets us.

    Raises:
        InterfaceError: there is none of that name, or it may not be captured on.
        FilterError: the filter does not compile.
    """

    def __init__(
        self, name: str, snaplen: int, promiscuous: bool, direction: str, expression: str, buffer_bytes: int
    ) -> None:
        if direction != "inout":
            raise InterfaceError(f"{printable(name)}: scapy does not tell the direction of packets: use --engine pcap")
        self.name = name
        self.warnings: list[str] = []
        self._snaplen = snaplen
        self._socket = _open(name, promiscuous, expression)
        _set_buffer(self._socket, buffer_bytes)
        self._received = self._dropped = 0
        linktype = linktype_of(self._socket)
        if linktype is None:
            self._socket.close()
            raise InterfaceError(
                f"{printable(name)}: its link type has no number in capture files: zbuf can't capture on it"
            )
        self.linktype = linktype

    @staticmethod
    def wait(interfaces: Sequence["ScapyInterface"]) -> list["ScapyInterface"]:
        """Those that have a packet, after a tenth of a second at most."""
        if not interfaces:
            time.sleep(_POLL_S)
            return []
        ready, _, _ = select.select([one._socket for one in interfaces], [], [], _POLL_S)
        return [one for one in interfaces if one._socket in ready]

    def receive(self, number: int) -> RawPacket | None:
        """The next packet, as of interface `number`; None where it was none; OSError where the interface fails."""
        _, data, seconds = self._socket.recv_raw()
        if not data:
            return None
        self._received += 1
        time_ns = time.time_ns() if seconds is None else nanoseconds(seconds)
        return RawPacket(data[: self._snaplen], time_ns, len(data), number)

    def statistics(self) -> tuple[int, int, int]:
        """(received, dropped by the kernel, 0): the packets that were taken, and what its socket says it dropped."""
        with contextlib.suppress(OSError, AttributeError):  # not every scapy socket is a packet socket
            answer = self._socket.ins.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._dropped += _STATISTICS.unpack(answer)[1]
        return self._received + self._dropped, self._dropped, 0

    def close(self) -> None:
        """Close it; its statistics stay."""
        self.statistics()
        self._socket.close()


def _set_buffer(opened: Any, buffer_bytes: int) -> None:
    """Scapy asks for 64 KiB; what is more than net.core.rmem_max takes CAP_NET_ADMIN (socket(7))."""
    for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
        with contextlib.suppress(OSError, AttributeError):  # not every scapy socket is a socket
            opened.ins.setsockopt(socket.SOL_SOCKET, option, buffer_bytes)


def _scapy_conf(name: str) -> Any:
    """Scapy's configuration, with the interfaces as they are now: one that was made again has another number."""
    try:
        import scapy.all  # noqa: F401  (it sets conf.L2listen, and the link types)
        from scapy.config import conf

        conf.ifaces.reload()
    except UnicodeDecodeError:
        raise InterfaceError(
            f"{printable(name)}: scapy can't read the names of this machine's interfaces, since one is not UTF-8: "
            "use --engine pcap"
        ) from None
    return conf


def _open(name: str, promiscuous: bool, expression: str) -> Any:
    conf = _scapy_conf(name)
    from scapy.error import Scapy_Exception

    try:
        return conf.L2listen(iface=name, promisc=promiscuous, filter=expression.strip() or None)
    except Scapy_Exception as error:
        raise FilterError(f"filter '{expression}': {error}") from None
    except PermissionError:
        raise InterfaceError(f"{printable(name)}: no permission to capture: it takes root or CAP_NET_RAW") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.ENODEV) == errno.ENODEV:
            raise InterfaceError(
                f"{printable(name)}: no such interface: zbufd interfaces lists what there is"
            ) from None
        raise InterfaceError(f"{printable(name)}: {error}") from None
