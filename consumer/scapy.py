"""Readers as scapy's sockets: for sniff(), AsyncSniffer, and sessions.

::

    with connect("lab", filter="udp port 53") as reader:
        sniff(opened_socket=ScapySocket(reader), prn=lambda packet: packet.summary(), store=False, count=10)
        sniff(opened_socket=ScapySocket(reader), prn=lambda packet: packet.show(), store=False)
"""

from select import select
from typing import Any

from scapy.config import conf
from scapy.data import MTU
from scapy.packet import Packet as ScapyPacket
from scapy.supersocket import SuperSocket
from scapy.utils import EDecimal

from zbuf.consumer.reading.buffer import Packet
from zbuf.consumer.reading.connection import until_next_look
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.reading.reconnecting import ReconnectingReader
from zbuf.shared.arguments import checked

_NANO = EDecimal((0, (1,), -9))
_DIRECTIONS = {"in": 1, "out": 2}  # as epb_flags has them


class ScapySocket(SuperSocket):
    """A SuperSocket that receives a reader's packets, dissected by its link type, with their time to the nanosecond.

    Each packet's bytes are copied, once, since scapy keeps them. Closing it closes the reader, and sniff() does that at
    the end of the stream. After a sniff() that ended sooner, another socket, or a loop over the reader, goes on with
    the next packet. A closed reader raises ValueRefused. It can't send.

    Args:
        reader: where the packets come from; nothing else may take its buffers meanwhile.
    """

    desc = "read packets from a zbuf capture"

    @checked
    def __init__(self, reader: Reader | ReconnectingReader) -> None:
        self.reader = reader
        import scapy.all  # noqa: F401  (it registers the layers)

        self.iface = reader.name

    def __del__(self) -> None:
        """The reader is not this socket's own: scapy would close it here."""

    def __repr__(self) -> str:
        return f"<zbuf scapy socket on {self.reader!r}>"

    # ---- what scapy calls ---------------------------------------------------------------------------------------

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes, Any]:
        """The next packet: its class, up to `x` of its bytes, and its time; waits for it.

        Raises:
            EOFError: the stream has ended.
        """
        packet = self._take()
        return self._layer_of(packet), bytes(packet)[:x], packet.time_ns * _NANO

    def recv(self, x: int = MTU, **options: Any) -> ScapyPacket:
        """The next packet, dissected, with its wirelen, direction, and a comment where packets were lost before it.

        Raises:
            EOFError: the stream has ended.
        """
        packet = self._take()
        dissected: ScapyPacket = self._dissect(self._layer_of(packet), bytes(packet)[:x], options)
        dissected.time = packet.time_ns * _NANO
        dissected.wirelen = packet.wirelen
        dissected.direction = _DIRECTIONS.get(packet.direction)
        if packet.dropped:
            dissected.comment = f"{packet.dropped} packets lost just before this one".encode()
        return dissected

    def send(self, x: ScapyPacket) -> int:  # noqa: ARG002  (scapy's name)
        """Not possible: raises OSError."""
        raise OSError(f"{self.reader.name}: a reader can't send packets")

    @staticmethod
    def select(sockets: list[Any], remain: float | None = conf.recv_poll_rate) -> list[Any]:
        """The sockets that have a packet or have reached their end; waits up to `remain` seconds for the first."""
        ready = [one for one in sockets if isinstance(one, ScapySocket) and one._is_ready()]
        if ready:
            return ready
        waiting = [one for one in sockets if one.fileno() >= 0]
        if len(waiting) < len(sockets):  # no doorbell rings when a producer comes back
            remain = until_next_look(remain)
        rung = select(waiting, [], [], remain)[0]
        return [one for one in rung if not isinstance(one, ScapySocket) or one._is_ready()]

    def fileno(self) -> int:
        """The reader's file descriptor."""
        return self.reader.fileno()

    def close(self) -> None:
        """Leave the capture."""
        self.closed = True
        self.reader.close()

    # ---- packets ------------------------------------------------------------------------------------------------

    def _is_ready(self) -> bool:
        """Whether recv() would not wait."""
        return self.reader._await_packet(0) or self.reader.finished

    def _take(self) -> Packet:
        if not self.reader._await_packet(None):
            raise EOFError(f"{self.reader.name}: {self.reader.end_reason or 'interrupted'}")
        return next(iter(self.reader))

    @property
    def basecls(self) -> Any:
        """What packets of the first interface are dissected as."""
        return conf.l2types.num2layer.get(self.reader.linktype, conf.raw_layer)

    def _layer_of(self, packet: Packet) -> Any:
        """What a packet is dissected as: that follows from its interface's link type."""
        return conf.l2types.num2layer.get(self.reader.interfaces[packet.interface].linktype, conf.raw_layer)

    @staticmethod
    def _dissect(layer: Any, data: bytes, options: dict[str, Any]) -> Any:
        try:
            return layer(data, **options)
        except Exception:  # a dissector that meets a malformed packet may raise anything
            if conf.debug_dissector:
                raise
            return conf.raw_layer(data)
