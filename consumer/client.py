"""A reader: a connection to a producer, and the buffers that come with it."""

import contextlib
import os
import socket
import struct
import threading
import time
import weakref
from mmap import mmap
from pathlib import Path
from select import POLLHUP, poll
from typing import Literal, cast

from zbuf.consumer.reader import SegmentReader
from zbuf.shared import control
from zbuf.shared.closing import Closing
from zbuf.shared.errors import ControlError, ProducerNotFound, Refused, RunDirectoryError, SegmentError, ValueRefused
from zbuf.shared.layout import MAX_CAPLEN, Layout, check_buffer_bytes, read_ledger
from zbuf.shared.pcapng import Interface, interfaces
from zbuf.shared.rundir import check_name, producer_names, search_path, socket_path
from zbuf.shared.segment import map_ack_page, map_segment, producer_lives

Wait = Literal["sleep", "spin"]
EndReason = Literal["closed", "producer died", "evicted", "left"]

DEFAULT_SPIN_US = 50
_ANSWER_S = 30
_DEATH_S = 2.0


class Connection(Closing):
    """A control connection to the producer `name`.

    Args:
        name: the producer's.
        run_dir: where its socket is; see zbuf.shared.rundir.search_path().

    Raises:
        ProducerNotFound: there is none of that name, or it does not answer.
    """

    def __init__(self, name: str, run_dir: str | os.PathLike[str] | None = None) -> None:
        directory = _directory_of(name, search_path(run_dir))
        self._socket = _connect(socket_path(directory, name), name, directory)
        self._lock = threading.Lock()

    def request(self, request: control.Request, descriptors: int = 0) -> tuple[control.Answer, list[int]]:
        """Send a request and wait for its answer.

        Args:
            request: what to ask.
            descriptors: how many file descriptors come with the answer.

        Returns:
            The answer, and those descriptors, the caller's to close.

        Raises:
            Refused: with the producer's reason.
            ControlError: it went away, or sent something else.
        """
        with self._lock:
            if self._socket.fileno() < 0:
                raise ControlError("this connection is closed: connect again")
            with contextlib.suppress(BrokenPipeError):  # it may have said why before it hung up
                self._socket.send(control.encode(request))
            answer, fds = control.receive_answer(self._socket, descriptors)
        if isinstance(answer, control.Refusal):
            for fd in fds:
                os.close(fd)
            raise Refused(answer.reason)
        return answer, fds

    def stats(self) -> control.Statistics:
        """What the producer says of itself, its descriptors and their readers; each ledger adds up."""
        return cast(control.Statistics, self.request(control.Stats())[0])

    def fileno(self) -> int:
        """The socket's file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _directory_of(name: str, directories: list[Path]) -> Path:
    """The first directory with a socket of that name, or that we may not look into; else the first of all."""
    for directory in directories:
        try:
            socket_path(directory, name).stat()
        except PermissionError:
            return directory
        except OSError:
            continue
        return directory
    return directories[0]


def _connect(path: Path, name: str, directory: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # The kernel's own timeouts: Python's would make it non-blocking, and a connect to a busy producer fail at once.
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", _ANSWER_S, 0))
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise ProducerNotFound(_not_found(name, directory, error)) from None
    return connection


def _not_found(name: str, directory: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"producer {name!r}: no permission to use its socket in {directory}: ls -ld tells whose group may"
    others = ", ".join(other for other in producer_names(directory) if other != name)
    return f"no producer {name!r} runs in {directory}" + (
        f" (there is: {others})" if others else ": start it with zbufd"
    )


class Reader(Closing, SegmentReader):
    """The packets of one descriptor, zero-copy; made by connect().

    Iterate over it for packets, or over buffers(); it is a context manager. One thread at a time may use it.
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
        del ack_page, sequence
        self.name = connected.producer
        """The producer's name."""
        self.descriptor = connected.descriptor
        """The number of the descriptor that this reader shares or has for itself."""
        self.snaplen = connected.snaplen
        """Bytes kept of each packet."""
        self.prologue = prologue
        """The pcapng blocks that make a capture file with the buffers' data after them."""
        self.interfaces = interfaces
        """The interfaces that packets come from, in the order of Packet.interface."""
        self.linktype = layout.linktype
        """LINKTYPE_ value of the packets."""
        self._segment_map = segment
        self._connection = connection
        self._doorbell_fd = doorbell
        self._segment_fd = segment_fd
        self._ended_as: EndReason | None = None
        self._closed = False
        self._leaving = False
        self._watch = _HangUpWatch(self, doorbell) if spin_ns < 0 else None
        _readers.add(self)

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
        """
        self._connection.request(control.SetFilter(filter=expression, flush=flush))

    def flush(self) -> None:
        """Discard what is stored and not assigned yet, and begin the ledger anew."""
        self._connection.request(control.Flush())

    def ledger(self) -> control.Ledger:
        """The descriptor's ledger, from shared memory: of its last rotation or drop; exact once the producer closed."""
        return control.Ledger(**read_ledger(self._segment_map))

    # ---- waiting and the end --------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """A file descriptor for select(), poll() and event loops.

        It becomes readable when a buffer comes, or the stream ends, after next_buffer(timeout=0) has returned None.
        """
        return self._doorbell_fd

    @property
    def end_reason(self) -> EndReason | None:
        """Why there are no more buffers; None while there may be.

        "closed": the producer ended, all was assigned. "producer died": it was killed, and everything that it had
        appended was read. "evicted": it took this reader off. "left": close() was called.
        """
        if self.finished and self._ended_as is None:
            self._ended_as = "closed" if self._closed_cleanly else "evicted"
        return self._ended_as

    def _is_dead(self) -> bool:
        """Whether it was the producer's death that hung up.

        The kernel closes a dead process's files one after the other: its lock may go a moment after its doorbell.
        """
        deadline = time.monotonic() + _DEATH_S
        while producer_lives(self._segment_fd):
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
        """In a forked child: the connection is the parent's, and its end is the parent's end."""
        self._closed = True
        self._hang_up()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()


_readers: "weakref.WeakSet[Reader]" = weakref.WeakSet()


def _forget_in_child() -> None:
    for reader in list(_readers):
        if not reader._closed:
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


def connect(
    name: str,
    *,
    filter: str = "",  # noqa: A002  (tcpdump's word for it)
    join: str | None = None,
    snaplen: int = MAX_CAPLEN,
    buffer_size: int | None = None,
    immediate: bool = False,
    timeout_ms: int = control.DEFAULT_TIMEOUT_MS,
    direction: control.Direction = "inout",
    wait: Wait = "sleep",
    spin_us: int = DEFAULT_SPIN_US,
    run_dir: str | os.PathLike[str] | None = None,
) -> Reader:
    """Open a descriptor on a capture, or join one, and read packets from it.

    Its packets begin with the first one after this returns. A descriptor of one's own has its own filter, buffers and
    drops: how slow its reader is harms nobody else.

    Args:
        name: the producer's.
        filter: a pcap-filter(7) expression; empty for everything.
        join: the name of a descriptor to share with all who say the same: each packet is stored once for all of them,
            and a buffer is free once every one of them has acknowledged it. The first to come decides on the settings.
        snaplen: bytes to keep of each packet, 1 to 262,144.
        buffer_size: bytes of each of the two buffers; whole pages, up to 1 GiB; None for the producer's own choice.
        immediate: have each packet assigned at once, where a buffer is free.
        timeout_ms: have a buffer assigned after this time though it is not full; 0 for never.
        direction: "in", "out" or "inout".
        wait: "sleep" looks for a buffer for `spin_us` and then sleeps; "spin" never makes a system call.
        spin_us: how long to look before sleeping, in microseconds.
        run_dir: where the producer's socket is; see zbuf.shared.rundir.search_path().

    Raises:
        ProducerNotFound: there is no producer of that name.
        Refused: it refuses, and says why: a filter that does not compile, a limit that is reached.
        ValueRefused: an argument is out of its range.
        SegmentError: what it sent is no segment of this ABI.
    """
    if wait not in ("sleep", "spin"):
        raise ValueRefused(f"wait={wait!r}: it must be 'sleep' or 'spin'")
    request = control.Connect(
        join=join, settings=_settings(filter, snaplen, buffer_size, immediate, timeout_ms, direction, join)
    )
    connection = Connection(name, run_dir)
    try:
        answer, fds = connection.request(request, descriptors=3)
    except BaseException:
        connection.close()
        raise
    return _make_reader(connection, answer, fds, -1 if wait == "spin" else spin_us * 1000)


def _settings(
    expression: str,
    snaplen: int,
    buffer_size: int | None,
    immediate: bool,
    timeout_ms: int,
    direction: control.Direction,
    join: str | None,
) -> control.Settings | None:
    if buffer_size is not None:
        check_buffer_bytes(buffer_size)
    if not 1 <= snaplen <= MAX_CAPLEN:
        raise ValueRefused(f"snaplen {snaplen}: it must be from 1 to {MAX_CAPLEN}")
    if not 0 <= timeout_ms <= control.TIMEOUT_MS_MAX:
        raise ValueRefused(f"read timeout {timeout_ms} ms: it must be from 0 to {control.TIMEOUT_MS_MAX}")
    if direction not in ("in", "out", "inout"):
        raise ValueRefused(f"direction {direction!r}: it must be in, out or inout")
    if "\0" in expression:
        raise ValueRefused(f"filter {expression!r}: it has a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in expression):
        raise ValueRefused(f"filter {expression!r}: it has characters that are none")
    if join is not None:
        check_name(join, "group name")
    if len(expression) > control.FILTER_LENGTH_MAX:
        raise ValueRefused(f"filter of {len(expression)} characters: use at most {control.FILTER_LENGTH_MAX}")
    settings = control.Settings(
        filter=expression,
        snaplen=snaplen,
        buffer_bytes=buffer_size,
        immediate=immediate,
        timeout_ms=timeout_ms,
        direction=direction,
    )
    return None if join is not None and settings == control.Settings() else settings


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
        prologue = segment[layout.prologue_offset : layout.prologue_offset + layout.prologue_bytes]
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
    if (layout.producer, layout.linktype) != (answer.producer, answer.linktype):
        raise SegmentError(
            f"foreign segment: it is {layout.producer!r}'s, of link type {layout.linktype}, "
            f"where {answer.producer!r} announced link type {answer.linktype}"
        )


def producers(run_dir: str | os.PathLike[str] | None = None) -> list[control.Statistics]:
    """The producers that run, each with its statistics, sorted by name; dead ones are left out."""
    found = []
    directories = search_path(run_dir)
    names: set[str] = set()
    for directory in directories:
        with contextlib.suppress(*([RunDirectoryError] if len(directories) > 1 else [])):
            names.update(producer_names(directory))
    for name in sorted(names):
        with contextlib.suppress(ProducerNotFound, ControlError, ValueRefused), Connection(name, run_dir) as connection:
            found.append(connection.stats())
    return found
