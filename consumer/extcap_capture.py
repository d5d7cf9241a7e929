"""A capture into Wireshark's fifo: pcapng, straight from shared memory, until either side has enough.

Wireshark ends a capture by closing the fifo, by SIGTERM, or both: neither is an error, and Wireshark shows whatever an
extcap program says on standard error, so that nothing is said then.
"""

import errno
import os
import select
import signal
import stat
import time
from collections.abc import Iterator

from zbuf.consumer.client import Reader
from zbuf.consumer.dump import closing_blocks, final_ledger
from zbuf.consumer.reader import Buffer
from zbuf.shared.errors import ZbufError

_OPENED_WITHIN_S = 30
_LOOK_S = 0.01
_WAIT_S = 0.25
"""How long it may take to see that the fifo was closed, while no packets come."""


class _Enough(Exception):
    """Nobody reads the fifo, or a signal came while nobody did."""


def capture_into(path: str, reader: Reader) -> None:
    """Write packets to a fifo until its other end is closed, SIGINT or SIGTERM comes, or the stream ends.

    Args:
        path: the fifo's; whoever reads it may open it later.
        reader: whose packets.

    Raises:
        ZbufError: it is no fifo, or nobody opens it; or the producer died, or took the reader off.
    """
    Feed(path, reader).run()
    if reader.end_reason == "producer died":
        raise ZbufError(f"{reader.name} died; everything that it had appended is here")
    if reader.end_reason == "evicted":
        raise ZbufError(f"{reader.name} took this reader off: it was too slow for others, or is not allowed any more")


class Feed:
    """The packets of a reader into a fifo; from its making on, SIGINT and SIGTERM end it in good order.

    The fifo is never waited for in a write(2), which a signal would not end.
    """

    def __init__(self, path: str, reader: Reader) -> None:
        self._path = path
        self._reader = reader
        self._started_ns = time.time_ns()
        self._stopping = False
        self._fd = -1
        self._poll = select.poll()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def run(self) -> None:
        """Feed it, to the end."""
        try:
            self._open()
            self._write(memoryview(self._reader.prologue))
            for buffer in self._buffers():
                with buffer.data as blocks:
                    self._write(blocks)
            ledger = final_ledger(self._reader)
            self._write(memoryview(closing_blocks(len(self._reader.interfaces), self._started_ns, ledger)))
        except _Enough:
            pass
        finally:
            if self._fd >= 0:
                os.close(self._fd)

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        self._reader.interrupt()

    def _open(self) -> None:
        """Open the fifo as soon as it is read; there is nothing to wait for until then, so that it is looked."""
        if not stat.S_ISFIFO(os.stat(self._path).st_mode):
            raise ZbufError(f"{self._path} is no fifo: write a file with zbuf dump -w")
        deadline = time.monotonic() + _OPENED_WITHIN_S
        while not self._stopping:
            try:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            else:
                self._poll.register(self._fd, select.POLLOUT)
                return
            if time.monotonic() >= deadline:
                raise ZbufError(f"{self._path}: nobody has opened it for {_OPENED_WITHIN_S} seconds")
            time.sleep(_LOOK_S)
        raise _Enough

    def _buffers(self) -> Iterator[Buffer]:
        while not (self._stopping or self._reader.finished):
            buffer = self._reader.next_buffer(timeout=_WAIT_S)
            if buffer is not None:
                yield buffer
            else:
                self._events(0)

    def _write(self, data: memoryview) -> None:
        written = 0
        while written < len(data):
            try:
                written += os.write(self._fd, data[written:])
            except BlockingIOError:
                if not self._events(_WAIT_S) and self._stopping:
                    raise _Enough from None
            except BrokenPipeError:
                raise _Enough from None

    def _events(self, seconds: float) -> int:
        """Wait for room in the fifo, or its end, which raises _Enough."""
        events = sum(found for _, found in self._poll.poll(seconds * 1000))
        if events & select.POLLERR:
            raise _Enough
        return events
