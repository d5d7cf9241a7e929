"""zbuf dump: packets to a pcapng file, or a line each."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from zbuf.consumer.client import Reader
from zbuf.consumer.reader import Buffer
from zbuf.shared.control import Ledger
from zbuf.shared.errors import ControlError, ZbufError
from zbuf.shared.pcapng import statistics

_BLOCK_HEAD_BYTES = 28  # of an Enhanced Packet Block, before its data


class Output(Protocol):
    """Where packets go."""

    def take(self, buffer: Buffer, packets: int) -> None:
        """Write the first `packets` packets of a buffer."""

    def finish(self, ledger: Ledger) -> None:
        """Write what belongs at the end."""


class PcapngFile:
    """A pcapng file: one write(2) for each buffer, straight from shared memory, and statistics at the end.

    Args:
        path: the file; "-" is standard output.
        reader: whose packets will be written.

    Raises:
        ZbufError: it can't be made or written, a full disk for one. What was written stays, and is a whole file.
    """

    def __init__(self, path: str, reader: Reader) -> None:
        self._path = path
        self._interfaces = len(reader.interfaces)
        self._started_ns = time.time_ns()
        self._written = 0
        try:
            self._fd = 1 if path == "-" else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ZbufError(f"{path}: {error.strerror}") from None
        self._write(memoryview(reader.prologue))

    def take(self, buffer: Buffer, packets: int) -> None:
        """Write the first `packets` packets of a buffer."""
        with buffer.data as data, data[: _end_of(buffer, packets)] as blocks:
            self._write(blocks)

    def finish(self, ledger: Ledger) -> None:
        """Write the statistics and close the file."""
        self._write(memoryview(closing_blocks(self._interfaces, self._started_ns, ledger)))
        if self._fd != 1:
            os.close(self._fd)

    def _write(self, data: memoryview) -> None:
        start = self._written
        try:
            while self._written - start < len(data):
                self._written += os.write(self._fd, data[self._written - start :])
        except BrokenPipeError:
            raise
        except OSError as error:
            self._cut_back(self._written - start)
            raise ZbufError(f"{self._path}: {error.strerror}: it holds the {start} bytes written before") from None

    def _cut_back(self, length: int) -> None:
        """Drop the last bytes, of a block that came only in part, so that the file stays a whole one."""
        with contextlib.suppress(OSError):  # a pipe keeps them
            os.ftruncate(self._fd, os.lseek(self._fd, -length, os.SEEK_CUR))


def closing_blocks(interfaces: int, started_ns: int, ledger: Ledger) -> bytes:
    """The statistics for the end of a file of packets from as many interfaces, begun at that time; empty for several.

    The ledger is the descriptor's: of several interfaces it can't be told apart.
    """
    if interfaces != 1:
        return b""
    counts = {name: getattr(ledger, name) for name in Ledger.__struct_fields__}
    return statistics(0, started_ns, time.time_ns(), counts)


def final_ledger(reader: Reader) -> Ledger:
    """The ledger of a reader's descriptor, as of now, or as of the end of the stream."""
    if reader.finished:
        return reader.ledger()
    try:
        found = reader.stats().descriptors
    except ControlError:
        return reader.ledger()
    return next((one for one in found if one.descriptor == reader.descriptor), Ledger())


def _end_of(buffer: Buffer, packets: int) -> int | None:
    """Where the first `packets` packets of a buffer end; None for the end of the buffer."""
    if packets >= len(buffer):
        return None
    return int(buffer.index()[packets]["offset"]) - _BLOCK_HEAD_BYTES


class Lines:
    """A line for each packet, on standard output: the time of day, what scapy says it is, and its length.

    Args:
        reader: whose packets will be shown.
        numeric: leave addresses and ports as numbers.
    """

    def __init__(self, reader: Reader) -> None:
        self._describe = _describer(reader.linktype)
        self._line_buffered = sys.stdout.isatty()

    def take(self, buffer: Buffer, packets: int) -> None:
        """Print the first `packets` packets of a buffer."""
        for _, packet in zip(range(packets), buffer, strict=False):
            seconds, nanoseconds = divmod(packet.time_ns, 1_000_000_000)
            sys.stdout.write(
                f"{_time_of_day(seconds)}.{nanoseconds:09d} {self._describe(bytes(packet))}, length {packet.wirelen}\n"
            )
        sys.stdout.flush()

    def finish(self, ledger: Ledger) -> None:
        """Nothing more to print."""


def _time_of_day(seconds: int) -> str:
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _describer(linktype: int) -> Callable[[bytes], str]:
    """What says in a few words what a packet is; scapy is imported only here."""
    import logging

    logging.getLogger("scapy").setLevel(logging.ERROR)
    import scapy.all  # noqa: F401  (it registers the layers)
    from scapy.config import conf

    if linktype not in conf.l2types.num2layer:
        return lambda data: f"link type {linktype}: {data[:32].hex()}"
    layer: Any = conf.l2types.num2layer[linktype]

    def describe(data: bytes) -> str:
        try:
            return str(layer(data).summary())
        except Exception as error:  # a dissector that meets a malformed packet may raise anything
            return f"malformed ({type(error).__name__}): {data[:32].hex()}"

    return describe


class Interrupted(Exception):
    """A signal asked to stop while the dump was waiting."""


class Dump:
    """The packets of a reader into an output, until the stream ends, `count` are there, or SIGINT or SIGTERM comes.

    From its making on, those signals end it in good order.
    """

    def __init__(self, reader: Reader, count: int | None) -> None:
        self._reader = reader
        self._left = sys.maxsize if count is None else count
        self._waiting = False
        self._stopping = False
        self.captured = 0
        """Packets written."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def run(self, output: Output) -> Ledger:
        """Dump, and return the descriptor's ledger as of the end."""
        for buffer in self._buffers():
            some = min(len(buffer), self._left)
            output.take(buffer, some)
            self.captured += some
            self._left -= some
            if self._left == 0 or self._stopping:
                break
        ledger = final_ledger(self._reader)
        output.finish(ledger)
        return ledger

    def _buffers(self) -> Iterator[Buffer]:
        try:
            while True:
                self._waiting = True  # before the look: a signal after it raises
                if self._stopping:
                    return
                buffer = self._reader.next_buffer()
                self._waiting = False
                if buffer is None:
                    return
                yield buffer
        except Interrupted:
            return

    def _stop(self, _number: int, _frame: object) -> None:
        """Raise only out of a wait, never out of the middle of a write."""
        self._stopping = True
        if self._waiting:
            self._waiting = False
            raise Interrupted
