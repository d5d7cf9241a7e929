"""The packets of a buffer as pcapng blocks, which can be written as they lie, all of them or some."""

from functools import cached_property

import numpy
from numpy.typing import NDArray

from zbuf.consumer.reading.buffer import Buffer

_HEAD_BYTES = 28  # of an Enhanced Packet Block, before its data


class Blocks:
    """The blocks of a buffer, each of which was checked.

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
    def _edges(self) -> NDArray[numpy.int64]:
        """Where each packet's block begins, and the end of all; other blocks belong to the packet before them."""
        begins = self.buffer.index()["offset"].astype(numpy.int64) - _HEAD_BYTES
        with self.buffer.data as data:
            edges = numpy.append(begins, len(data))
        if self.packets:
            edges[0] = self.head_bytes
        return edges

    def size(self, first: int, last: int) -> int:
        """The bytes of the blocks from number `first` to the one before `last`."""
        return int(self._edges[last] - self._edges[first])

    def fitting(self, first: int, size: int) -> int:
        """How many whole blocks from number `first` on have `size` bytes at most."""
        end = int(self._edges[first]) + min(size, self.size(first, self.packets))
        return int(numpy.searchsorted(self._edges, end, side="right")) - 1 - first

    def view(self, first: int, last: int, *, with_head: bool = True) -> memoryview:
        """A view of the blocks from number `first` to the one before `last`; release it before the next buffer.

        If `with_head` is true and `first` is 0, the blocks that announce interfaces come first.
        """
        data = self.buffer.data
        if with_head and (first, last) == (0, self.packets):
            return data
        with data:
            begin = int(self._edges[first]) if first else 0 if with_head else self.head_bytes
            return data[begin : int(self._edges[last])]
