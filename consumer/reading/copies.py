"""A packet that outlives its buffer."""

import struct
from dataclasses import dataclass
from typing import SupportsIndex, overload

from zbuf.shared.memory.pcapng import options_in

_COMMENT, _EPB_FLAGS = 1, 2


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

    options: bytes = b""
    """The options of its block: pcapng's, section 3.5 of draft-ietf-opsawg-pcapng."""

    @property
    def flags(self) -> int:
        """All 32 bits of its block's epb_flags: direction, reception type, length of the FCS, link-layer errors."""
        return flags_in(self.options)

    @property
    def comments(self) -> list[str]:
        """What somebody remarked on it."""
        return comments_in(self.options)

    @property
    def caplen(self) -> int:
        """The bytes captured of it."""
        return len(self.data)

    def __len__(self) -> int:
        return len(self.data)

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...
    @overload
    def __getitem__(self, key: slice, /) -> bytes: ...
    def __getitem__(self, key: SupportsIndex | slice, /) -> int | bytes:
        return self.data[key]

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return f"<zbuf packet copy: {self.caplen} of {self.wirelen} bytes at {self.time_ns} ns>"


def flags_in(options: bytes) -> int:
    """The epb_flags among the options of a packet's block; 0 where there are none."""
    return next(
        (struct.unpack("<I", value)[0] for code, value in options_in(options) if (code, len(value)) == (_EPB_FLAGS, 4)),
        0,
    )


def comments_in(options: bytes) -> list[str]:
    """The comments among the options of a packet's block."""
    return [value.decode("utf-8", "replace") for code, value in options_in(options) if code == _COMMENT]
