"""A line for each packet in the form of tcpdump -n, for where tcpdump itself can't print it."""

from zbuf.consumer.reading.buffer import Buffer

class PacketLines:
    """Makes the lines of a dump."""

    def __init__(self, times: int = 0, numbers: bool = False, nanoseconds: bool = False) -> None: ...
    def describe(self, linktypes: list[int], names: list[bytes]) -> None: ...
    def lines(self, buffer: Buffer, last: int) -> bytes: ...
