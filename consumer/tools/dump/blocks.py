"""The packets of a buffer as a file has them, all of them or some: pcapng's blocks as they lie, or pcap's records."""

from array import array
from bisect import bisect_right
from functools import cached_property
from typing import Protocol

from zbuf.consumer.reading.buffer import Buffer
from zbuf.consumer.tools.dump.records import block_edges, pcap_records


class Part(Protocol):
    """The packets of a buffer in the form of one file format."""

    @property
    def head_bytes(self) -> int:
        """How many bytes come before the packets; they announce interfaces."""

    def size(self, first: int, last: int) -> int:
        """The bytes of the packets from number `first` to the one before `last`."""

    def fitting(self, first: int, size: int) -> int:
        """How many whole packets from number `first` on have `size` bytes at most."""

    def view(self, first: int, last: int, *, with_head: bool = True) -> memoryview:
        """A view of the packets from number `first` to the one before `last`; release it before the next buffer.

        If `with_head` is true and `first` is 0, what announces interfaces comes first.
        """


class _Edged:
    """What follows from where each packet begins, and where the last one ends."""

    packets: int

    @cached_property
    def _edges(self) -> "array[int]":
        raise NotImplementedError

    def size(self, first: int, last: int) -> int:
        return self._edges[last] - self._edges[first]

    def fitting(self, first: int, size: int) -> int:
        end = self._edges[first] + min(size, self.size(first, self.packets))
        return bisect_right(self._edges, end) - 1 - first


class Blocks(_Edged):
    """The pcapng blocks of a buffer, each of which was checked.

    Args:
        buffer: the buffer, which the reader must hold for as long as this object is used.

    Raises:
        CorruptBuffer: the buffer holds something else than whole packet blocks.
    """

    def __init__(self, buffer: Buffer) -> None:
        buffer.totals()
        self.buffer = buffer
        self.packets = len(buffer)
        """The number of packets."""
        self.head_bytes = buffer.head_bytes
        """How many bytes of blocks come before the packets; they announce interfaces."""

    @cached_property
    def records(self) -> "Records":
        """The same packets as records of a classic pcap file."""
        return Records(self.buffer)

    @cached_property
    def _edges(self) -> "array[int]":
        """Where each packet's block begins, and the end of all; other blocks belong to the packet before them."""
        edges = block_edges(self.buffer)
        if self.packets:
            edges[0] = self.head_bytes
        return edges

    def view(self, first: int, last: int, *, with_head: bool = True) -> memoryview:
        """A view of the blocks, in the buffer itself."""
        data = self.buffer.data
        if with_head and (first, last) == (0, self.packets):
            return data
        with data:
            begin = self._edges[first] if first else 0 if with_head else self.head_bytes
            return data[begin : self._edges[last]]


class Records(_Edged):
    """The packets of a buffer as records of a classic pcap file, with stamps in nanoseconds.

    Args:
        buffer: the buffer, which may be given back afterwards: this is a copy.
    """

    head_bytes = 0

    def __init__(self, buffer: Buffer) -> None:
        self.packets = len(buffer)
        self._data, self._begins, self.late = pcap_records(buffer)
        """`late` is how many packets have a time after 2106, for which a record has no room."""

    @cached_property
    def _edges(self) -> "array[int]":
        return self._begins

    def view(self, first: int, last: int, *, with_head: bool = True) -> memoryview:
        """A view of the records."""
        del with_head
        return memoryview(self._data)[self._begins[first] : self._begins[last]]
