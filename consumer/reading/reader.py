"""A reader: a connection to a producer, and the buffers that come with it."""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from mmap import mmap
from select import POLLHUP, poll
from typing import Literal, cast

from zbuf.consumer.reading.batches import Batch, batches
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.options import Options, check_filter
from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.shared import control
from zbuf.shared.closing import Closing
from zbuf.shared.errors import ControlError, SegmentError
from zbuf.shared.memory.layout import Layout, read_ledger
from zbuf.shared.memory.pcapng import Interface, first_interfaces, interfaces
from zbuf.shared.memory.reader_pages import map_ack_page
from zbuf.shared.memory.segment import map_segment, producer_lives

log = logging.getLogger("zbuf")

EndReason = Literal["closed", "moved", "producer died", "evicted", "left"]

_DEATH_S = 2.0


class Reader(Closing, SegmentReader):
    """The packets of one descriptor, zero-copy; made by connect().

    Iterate over it for packets, or over buffers(); it is a context manager. One thread at a time may use it, and no
    process that was forked from the one that connected.
    """

    def __init__(
        self,
        segment: mmap,
        layout: Layout,
        ack_page: mmap,
        *,
        doorbell: int,
        sequence: int,
        spin_ns: int,
        connection: Connection,
        connected: control.Connected,
        segment_fd: int,
        prologue: bytes,
        interfaces: list[Interface],
    ) -> None:
        del layout, ack_page, sequence
        self.name = connected.producer
        """The producer's name."""
        self.descriptor = connected.descriptor
        """The number of the descriptor that this reader shares or has for itself."""
        self.snaplen = connected.snaplen
        """Bytes kept of each packet."""
        self.offered_before = connected.offered
        """Packets that the producer's source had given before this reader was let in."""
        self.prologue = prologue
        """The pcapng blocks that make a capture file with the buffers' data after them.

        It has the interfaces that were announced up to and including the last buffer taken: that one's own head
        (Buffer.head_bytes) is to be left out of a file that begins with it.
        """
        self.interfaces = interfaces
        """The interfaces that packets come from, in the order of Packet.interface; those that appear are added."""
        self.warnings = connected.warnings
        """What is other than one may think: interfaces for whose link type the filter can't be used."""
        _log_warnings(self.name, self.warnings)
        self._segment_map = segment
        self._connection = connection
        self._doorbell_fd = doorbell
        self._segment_fd = segment_fd
        self._ended_as: EndReason | None = None
        self._closed = False
        self._leaving = False
        self._watch = _HangUpWatch(self, doorbell) if spin_ns < 0 else None
        _readers.add(self)

    @property
    def linktype(self) -> int:
        """LINKTYPE_ value of the first interface's packets; of all, in most captures."""
        return self.interfaces[0].linktype

    @property
    def linktypes(self) -> tuple[int, ...]:
        """The LINKTYPE_ value of each interface's packets."""
        return tuple(interface.linktype for interface in self.interfaces)

    def _interfaces_appeared(self, head: bytes, appeared: list[Interface]) -> None:
        self.prologue += head
        self.interfaces = [*self.interfaces, *appeared]

    # ---- requests -----------------------------------------------------------------------------------------------

    def stats(self) -> control.Statistics:
        """What the producer says of itself; see Connection.stats()."""
        return self._connection.stats()

    def rotate(self) -> bool:
        """Have what is stored assigned though the buffer is not full.

        Returns:
            False where there was nothing, or no buffer free for what comes next.
        """
        return cast(control.Done, self._connection.request(control.Rotate())[0]).changed

    def set_filter(self, expression: str, *, flush: bool = True) -> None:
        """Change the filter for packets to come.

        Args:
            expression: pcap-filter(7); empty for everything.
            flush: discard what the old filter let in and is not assigned yet, and begin the ledger anew.

        Raises:
            Refused: it does not compile, or others share the descriptor.
            ValueRefused: no filter is like that.
        """
        check_filter(expression)
        answer, _ = self._connection.request(control.SetFilter(filter=expression, flush=flush))
        _log_warnings(self.name, cast(control.Done, answer).warnings)

    def flush(self) -> None:
        """Discard what is stored and not assigned yet, and begin the ledger anew."""
        self._connection.request(control.Flush())

    def ledger(self) -> control.Ledger:
        """The descriptor's ledger, from shared memory: of its last rotation or drop; exact once the producer closed."""
        return control.Ledger(**read_ledger(self._segment_map))

    # ---- packets ------------------------------------------------------------------------------------------------

    def index_batches(self) -> Iterator[Batch]:
        """Iterate over the buffers as NumPy sees them, each valid until the next is taken: see Batch."""
        return batches(self.buffers())

    # ---- waiting and the end --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A file descriptor for select(), poll() and event loops.

        It becomes readable when a buffer comes, or the stream ends, after next_buffer(timeout=0) has returned None.
        """
        return self._doorbell_fd

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers; None while there may be.

        "closed": the producer ended, and all that it assigned was taken. "moved": likewise, and the descriptor goes on
        in another segment: connect again. "producer died": it was killed, and everything that it had
        appended was read. "evicted": it took this reader off. "left": close() was called.
        """
        if self.finished and self._ended_as is None:
            self._ended_as = "closed" if self._closed_cleanly else "moved" if self._has_moved else "evicted"
        return self._ended_as

    def _is_dead(self) -> bool:
        """Whether it was the producer's death that hung up.

        The kernel closes a dead process's files one after the other: its lock may go a moment after its doorbell.
        """
        deadline = time.monotonic() + _DEATH_S
        while not self._closed and producer_lives(self._segment_fd):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.001)
        self._ended_as = "producer died"
        return True

    def close(self) -> None:
        """Leave: the producer takes the buffers back.

        It does so at once, or where a view of them lives (a memoryview, a NumPy array), as soon as that is gone.
        Doing it again does nothing.
        """
        if self._closed:
            return
        self._ended_as = self.end_reason or "left"
        self._closed = True
        self._finish()
        if self._watch is not None:
            self._watch.stop()
        if self.holds_views:
            self._leaving = True
        else:
            self._hang_up()

    def _views_gone(self) -> None:
        if self._leaving and not self.holds_views:
            self._leaving = False
            self._hang_up()

    def _hang_up(self) -> None:
        self._connection.close()
        os.close(self._doorbell_fd)
        os.close(self._segment_fd)
        self._doorbell_fd = self._segment_fd = -1

    def _forget(self) -> None:
        """In a forked child: the connection and the buffers are the parent's, and so is their end."""
        self._ended_as = self.end_reason or "left"
        self._closed = True
        self._leaving = False
        self._disown()
        if self._watch is not None:
            self._watch.stop()
        self._hang_up()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


_readers: "weakref.WeakSet[Reader]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for reader in list(_readers):
        if reader._segment_fd >= 0:  # it has not hung up
            reader._forget()
    _readers.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class _HangUpWatch:
    """Watches the doorbell for a reader that never makes a system call, in a thread that sleeps until the end."""

    def __init__(self, reader: Reader, doorbell: int) -> None:
        self._stop_reading, self._stop_writing = os.pipe2(os.O_CLOEXEC)
        args = (weakref.ref(reader), doorbell)
        self._thread = threading.Thread(target=self._watch, args=args, name="zbuf-watch", daemon=True)
        self._thread.start()

    def _watch(self, reader: "weakref.ref[Reader]", doorbell: int) -> None:
        polled = poll()
        polled.register(doorbell, 0)  # POLLHUP is always reported
        polled.register(self._stop_reading, 0)
        hung_up = any(fd == doorbell and events & POLLHUP for fd, events in polled.poll())
        alive = reader()
        if hung_up and alive is not None:
            alive._note_hang_up()

    def stop(self) -> None:
        os.close(self._stop_writing)
        if self._thread is not threading.current_thread():
            self._thread.join()
        os.close(self._stop_reading)


def open_reader(name: str, options: Options) -> Reader:
    """Connect to the producer `name`; see connect() in zbuf.consumer.reading.opening."""
    request = options.request()
    connection = Connection(name, options.run_dir)
    try:
        answer, fds = connection.request(request, descriptors=3)
    except BaseException:
        connection.close()
        raise
    return _make_reader(connection, answer, fds, options.spin_ns)


def _make_reader(connection: Connection, answer: control.Answer, fds: list[int], spin_ns: int) -> Reader:
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        for fd in fds:
            undo.callback(os.close, fd)
        if not isinstance(answer, control.Connected) or len(fds) != 3:
            raise ControlError(f"answer to connect with {len(fds)} file descriptors: is this a zbuf producer?")
        segment_fd, ack_fd, doorbell = fds
        # A producer that has ended since it answered has left this reader what it had appended.
        segment, layout = map_segment(segment_fd, closed_too=True)
        _check_identity(answer, layout)
        whole = segment[layout.prologue_offset : layout.prologue_offset + layout.prologue_bytes]
        prologue = first_interfaces(whole, len(answer.interfaces))
        reader = Reader(
            segment,
            layout,
            map_ack_page(ack_fd),
            doorbell=doorbell,
            sequence=answer.sequence,
            spin_ns=spin_ns,
            connection=connection,
            connected=answer,
            segment_fd=segment_fd,
            prologue=prologue,
            interfaces=interfaces(prologue),
        )
        undo.pop_all()
        os.close(ack_fd)
    return reader


def _check_identity(answer: control.Connected, layout: Layout) -> None:
    if layout.producer != answer.producer:
        raise SegmentError(f"foreign segment: it is {layout.producer!r}'s, where {answer.producer!r} answered")
    if not answer.interfaces:
        raise SegmentError(f"{answer.producer!r} has no interface: its producer is broken")


def _log_warnings(name: str, warnings: list[str]) -> None:
    for warning in warnings:
        log.warning("%s: %s", name, warning)
