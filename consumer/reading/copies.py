"""A packet that outlives its buffer."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PacketCopy:
    """A copy of a packet in memory of its own, made by Packet.copy(). It can be kept, pickled and compared."""

    data: bytes
    """Its captured bytes."""
    time_ns: int
    """When it was captured, in nanoseconds since 1970-01-01 00:00 UTC."""
    wirelen: int
    """The bytes that it had on the wire."""
    interface: int
    """The number of its interface among the reader's `interfaces`."""
    dropped: int
    """Packets lost just before it."""
    direction: str
    """"in" or "out"; "inout" where it is not known."""

    @property
    def caplen(self) -> int:
        """The bytes captured of it."""
        return len(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return self.data
