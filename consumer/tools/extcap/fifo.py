"""A capture into Wireshark's fifo: pcapng, straight from shared memory, until either side ends it.

Wireshark ends a capture by closing the fifo, by SIGTERM, or by both. None of this is an error, so nothing is printed:
Wireshark would show what an extcap program prints on standard error. Wireshark waits for ever for a fifo that nobody
opens. So the fifo is opened first, and Wireshark sees its end if anything fails later.
"""

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterator

from zbuf.consumer import Buffer, Reader
from zbuf.consumer.tools import words
from zbuf.consumer.tools.dump.trailer import closing_blocks, final_ledger
from zbuf.shared.cli.process import on_end
from zbuf.shared.closing import Closing
from zbuf.shared.errors import ZbufError

_OPENED_WITHIN_S = 30
_LOOK_S = 0.01
_WAIT_S = 0.25
"""How long it may take to notice that the fifo was closed while no packets come."""


def capture_into(path: str, open_reader: Callable[[], Reader]) -> None:
    """Write packets to a fifo until its other end is closed, SIGINT or SIGTERM comes, or the stream ends.

    Args:
        path: the path of the fifo; its reader may open it later.
        open_reader: makes the reader whose packets are written.

    Raises:
        ZbufError: the file is not a fifo, or nobody reads it; or the producer died, or evicted the reader.
    """
    with Feed() as feed:
        try:
            feed.open(path)
            with open_reader() as reader:
                feed.run(reader)
                words.check_end(reader.name, reader.end_reason)
        except _Enough:
            pass


class _Enough(Exception):
    """Nobody reads the fifo any more, or a signal came while nobody read it."""


class Feed(Closing):
    """Writes to a fifo; SIGINT and SIGTERM, which the constructor handles, end it in good order.

    It never waits in open(2) or write(2), because Python repeats these after a signal.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._poll = select.poll()
        self._reader: Reader | None = None
        self._stopping = False
        on_end(self._stop, again=False)  # tshark sends a signal, and the terminal may send another

    def _stop(self) -> None:
        self._stopping = True
        if self._reader is not None:
            self._reader.interrupt()

    def open(self, path: str) -> None:
        """Open the fifo as soon as somebody reads it; only trying tells."""
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise ZbufError(f"{path} is not a fifo: to write a file, use zbuf dump -w")
        deadline = time.monotonic() + _OPENED_WITHIN_S
        while (fd := _open_if_read(path)) is None:
            if self._stopping:
                raise _Enough
            if time.monotonic() >= deadline:
                raise ZbufError(f"{path}: nobody has opened it for {_OPENED_WITHIN_S} seconds")
            time.sleep(_LOOK_S)
        self._fd = fd
        self._poll.register(fd, select.POLLOUT)

    def run(self, reader: Reader) -> None:
        """Write the prologue, every packet that comes, and the statistics."""
        self._reader = reader
        started_ns = time.time_ns()
        self._write(memoryview(reader.prologue))
        for buffer in self._buffers(reader):
            with buffer.data as blocks:
                self._write(blocks)
        self._write(memoryview(closing_blocks(len(reader.interfaces), started_ns, final_ledger(reader))))

    def close(self) -> None:
        """Close the fifo, so that its reader sees the end."""
        if self._fd >= 0:
            os.close(self._fd)

    def _buffers(self, reader: Reader) -> Iterator[Buffer]:
        while not (self._stopping or reader.finished):
            buffer = reader.next_buffer(timeout=_WAIT_S)
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


def _open_if_read(path: str) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
