"""Buffers as NumPy arrays."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from zbuf.consumer.reading.buffer import Buffer

if TYPE_CHECKING:  # NumPy is imported where it is used: commands that don't need it start without it
    import numpy
    from numpy.typing import NDArray


class Batch:
    """The packets of one buffer: where each is, and all of their bytes.

    A filter over all of them is an array expression, and copies what it keeps::

        for batch in reader.index_batches():
            long = batch.index[batch.index["caplen"] > 36]
            ports = batch.data[long["offset"] + 36].astype(int) << 8 | batch.data[long["offset"] + 37]

    Args:
        buffer: where the packets are.
    """

    __slots__ = ("_buffer", "index")

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self.index: NDArray[numpy.void] = buffer.index()
        """A row of INDEX_DTYPE for each packet; it outlives the buffer."""

    @property
    def data(self) -> "NDArray[numpy.uint8]":
        """The buffer's bytes, read-only and in place: a packet's bytes begin at the `offset` of its row.

        Each call makes a new view. While a view lives, the buffer is not given back, and the producer has one buffer
        less to fill. So use it in expressions only, or `del` the variable at the end of the loop's body.

        Raises:
            StaleBuffer: the next batch was already taken.
        """
        import numpy

        return numpy.asarray(self._buffer.data)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"<zbuf batch of buffer {self._buffer.sequence}: {len(self)} packets>"


def batches(buffers: Iterable[Buffer]) -> Iterator[Batch]:
    """A Batch of each buffer."""
    return map(Batch, buffers)
