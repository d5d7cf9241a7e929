"""A reader: a connection to a producer, and the buffers that come with it."""

import contextlib
import os
import threading
import time
import weakref
from dataclasses import replace
from mmap import mmap
from select import POLLHUP, poll
from typing import cast

from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.options import Options
from zbuf.consumer.reading.received import check_files
from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.consumer.reading.surface import Asking, EndReason, Facts, closed_error, log_warnings
from zbuf.shared import control
from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import Layout, read_ledger
from zbuf.shared.memory.pcapng import Interface, first_interfaces, interfaces
from zbuf.shared.memory.reader_pages import map_ack_page
from zbuf.shared.memory.segment import map_segment, producer_lives

_DEATH_S = 2.0


class Reader(SegmentReader, Asking):
    """The packets of one descriptor, zero-copy; made by connect().

    Iterate over it for packets, or over buffers(); it is a context manager. One thread at a time may use it, in the
    process that connected and not in one forked from it.
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
        segment_fd: int,
        facts: Facts,
        interfaces: list[Interface],
    ) -> None:
        del layout, ack_page, sequence, interfaces  # SegmentReader's own
        self._known = facts
        self._segment_map = segment
        self._connection = connection
        self._doorbell_fd = doorbell
        self._segment_fd = segment_fd
        self._ended_as: EndReason | None = None
        self._closed = False
        self._leaving = False
        self._watch = _HangUpWatch(self, doorbell) if spin_ns < 0 else None
        _readers.add(self)
        log_warnings(facts.name, facts.warnings)

    # ---- what it says of itself, and requests ---------------------------------------------------------------------

    def _facts(self) -> Facts:
        return self._known

    def _interfaces_appeared(self, head: bytes, appeared: list[Interface]) -> None:
        known = self._known
        self._known = replace(known, prologue=known.prologue + head, interfaces=[*known.interfaces, *appeared])

    def _control(self) -> Connection:
        return self._connection

    def ledger(self) -> control.Ledger:
        """The descriptor's ledger in shared memory, as of its last rotation or drop; exact once the producer closed."""
        return control.Ledger(**read_ledger(self._segment_map))

    # ---- waiting and the end --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A file descriptor for select(), poll() and event loops.

        After next_buffer(timeout=0) has returned None, it becomes readable when a buffer comes or the stream ends.
        """
        return self._doorbell_fd

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers; None while there may be.

        "closed": the producer ended, after it had assigned everything. "moved": likewise, and the descriptor goes on in
        another segment: connect again. "producer died": it was killed, and everything that it had appended was read.
        "evicted": the producer removed this reader, which was too slow for others, or is not allowed any more. "left":
        close() was called.
        """
        if self.finished and self._ended_as is None:
            self._ended_as = "closed" if self._closed_cleanly else "moved" if self._has_moved else "evicted"
        return self._ended_as

    def _await_packet(self, timeout: float | None) -> bool:
        """Whether an iteration has a packet to give, now or within this time after each buffer that has none."""
        while not self._packets_left:
            if self.next_buffer(timeout) is None:
                return False
            self._rewind()
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error(self.name)

    def _is_dead(self) -> bool:
        """Whether the connection hung up because the producer died.

        The kernel closes a dead process's files one by one: the lock may go a moment after the doorbell.
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

        It does so at once, unless a view of them lives (a memoryview, a NumPy array); then as soon as the last view is
        gone. A second call does nothing. From now on, next_buffer() and iterations raise ValueRefused.
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
        """In a forked child: the connection and the buffers belong to the parent, and only it ends them."""
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
        if reader._segment_fd >= 0:  # it is still connected
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
        answer, fds = connection.request(request, descriptors=3)  # Connected, or it raises
    except BaseException:
        connection.close()
        raise
    return _make_reader(connection, cast(control.Connected, answer), fds, options.spin_ns)


def _make_reader(connection: Connection, answer: control.Connected, fds: list[int], spin_ns: int) -> Reader:
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        for fd in fds:
            undo.callback(os.close, fd)
        segment_fd, ack_fd, doorbell = fds
        check_files(segment_fd, ack_fd, doorbell)
        # A producer may end right after its answer: the reader still gets everything that it appended.
        segment, layout = map_segment(segment_fd, closed_too=True)
        _check_identity(answer, layout)
        facts = _facts(answer, layout, segment)
        reader = Reader(
            segment,
            layout,
            map_ack_page(ack_fd),
            doorbell=doorbell,
            sequence=answer.sequence,
            spin_ns=spin_ns,
            connection=connection,
            segment_fd=segment_fd,
            facts=facts,
            interfaces=facts.interfaces,
        )
        undo.pop_all()
        os.close(ack_fd)
    return reader


def _facts(answer: control.Connected, layout: Layout, segment: mmap) -> Facts:
    whole = segment[layout.prologue_offset : layout.prologue_offset + layout.prologue_bytes]
    prologue = first_interfaces(whole, len(answer.interfaces))  # the heads of buffers announce the others
    return Facts(
        name=answer.producer,
        descriptor=answer.descriptor,
        snaplen=answer.snaplen,
        prologue=prologue,
        interfaces=interfaces(prologue),
        offered_before=answer.offered,
        warnings=answer.warnings,
    )


def _check_identity(answer: control.Connected, layout: Layout) -> None:
    if layout.producer != answer.producer:
        raise SegmentError(f"foreign segment: it is {layout.producer!r}'s, where {answer.producer!r} answered")
    if not answer.interfaces:
        raise SegmentError(f"{answer.producer!r} has no interface: its producer is broken")
