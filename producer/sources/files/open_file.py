"""A capture file being read: of any format and compression, from a disk or by a pipe."""

import contextlib
import fcntl
import itertools
import os
import select
import stat
import threading
from collections.abc import Iterator

from zbuf.producer.sources.files.compression import HEAD_BYTES, Compression, DamagedData, compression_of, unpack
from zbuf.producer.sources.files.interfaces import FileInterfaces
from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.savefile import LONGEST_PASSED_BLOCK_BYTES, Savefile, is_savefile, is_seekable
from zbuf.producer.sources.files.stopping import Stop, start_deaf
from zbuf.shared.errors import CaptureFileError

_COPY_BYTES = 1 << 17
_PIPE_BYTES = 1 << 19


class OpenFile:
    """A capture file being read, with the thread that unpacks it where it is compressed.

    Savefile reads pcap and pcapng, libpcap whatever else there may be. libpcap reads a stream that nobody has looked
    into, so a thread passes on to it what comes by a pipe. The thread waits for its input or for `stop`, whichever
    comes first: nobody waits longer than that.

    Args:
        path: the file; "-" is standard input.
        interfaces: who numbers its interfaces.
        stop: where it is set, what comes by a pipe is over.

    Raises:
        CaptureFileError: it is missing, empty or not a capture.
    """

    def __init__(self, path: str, interfaces: FileInterfaces, stop: Stop) -> None:
        self.path = path
        self._interfaces = interfaces
        self._stop = stop
        self._unpacking_error: str | None = None
        self._thread: threading.Thread | None = None
        fd = _open_path(path)
        self.is_pipe = not is_seekable(fd)
        """Whether it can be read once only."""
        try:
            self.capture = self._open(fd)
        except CaptureFileError as error:
            self._join()
            why = f"{path}: not a capture file: {self._unpacking_error}" if self._unpacking_error else str(error)
            raise CaptureFileError(why) from None

    def _open(self, fd: int) -> Savefile | CaptureFile:
        head = self._look(fd)
        compression = compression_of(head)
        if compression is not None:
            fd = self._start_thread(fd, head, compression)
            head = self._look(fd)
        if is_savefile(head):
            unread = b"" if is_seekable(fd) else head
            return Savefile(fd, self.path, self._interfaces, head=unread, stop_fd=self._stop.fileno())
        if not is_seekable(fd):
            fd = self._start_thread(fd, head, None)
        return self._open_by_libpcap(fd)

    def _open_by_libpcap(self, fd: int) -> CaptureFile:
        file = CaptureFile(fd, self.path)
        number = self._interfaces.add(0, linktype=file.linktype, block=b"", fcs_bits=None)
        file.interface = number
        return file

    def _look(self, fd: int) -> bytes:
        """How the file begins; what has been looked at of a pipe is gone from it."""
        if is_seekable(fd):
            return os.pread(fd, HEAD_BYTES, os.lseek(fd, 0, os.SEEK_CUR))
        head = b""
        while len(head) < HEAD_BYTES and (more := _read_some(fd, HEAD_BYTES - len(head), self._stop)):
            head += more
        return head

    # ---- the thread ---------------------------------------------------------------------------------------------

    def _start_thread(self, fd: int, head: bytes, compression: Compression | None) -> int:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # more than a user may have
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        head = b"" if is_seekable(fd) else head
        work = (fd, head, writing, compression, self._thread)
        self._thread = threading.Thread(target=self._copy, args=work, name="zbuf-unpack", daemon=True)
        start_deaf(self._thread)
        return reading

    def _copy(
        self, fd: int, head: bytes, writing: int, compression: Compression | None, previous: threading.Thread | None
    ) -> None:
        pieces = itertools.chain([head], _pieces_of(fd, self._stop)) if head else _pieces_of(fd, self._stop)
        try:
            with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb", buffering=0) as pipe:
                # what is whole is passed on before what is damaged is come upon
                unpacked = pieces if compression is None else unpack(compression, lambda: next(pieces, b""))
                for piece in unpacked:
                    pipe.write(piece)
        except DamagedData as error:
            self._unpacking_error = str(error)
        finally:
            os.close(fd)
            if previous is not None:
                previous.join()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    # ---- the end ------------------------------------------------------------------------------------------------

    def tell_snaplen(self) -> None:
        """Give the interface of a pcap file that is read whole its snapshot length, if all packets keep to it."""
        if isinstance(self.capture, Savefile) and self.capture.snaplen:
            self._interfaces.limit(self.capture.snaplen)

    def close(self) -> None:
        """Close the file, or do nothing if it was."""
        self.capture.close()
        self._join()

    @property
    def damage(self) -> str | None:
        """What damage was found in a file that is closed, in a line; None where there was none."""
        if self._stop.is_set:
            return None  # it was cut by us
        if self._unpacking_error:
            where = f", at byte {self.capture.offset}" if isinstance(self.capture, Savefile) else ""
            return f"{self.path}: damaged after {self.capture.packets} whole packets{where}: {self._unpacking_error}"
        return self.capture.damage

    @property
    def warnings(self) -> list[str]:
        """All that there is to say of it, a line each: the damage, and what else did not come out as it was."""
        said = [self.damage]
        if isinstance(self.capture, Savefile):
            if count := self.capture.saturated:
                packets = "1 packet has a time" if count == 1 else f"{count} packets have times"
                moments = "given as the first or the last moment in between"
                said.append(f"{self.path}: {packets} before 1970 or after 2554, {moments}")
            if count := self.capture.left_out:
                blocks = "1 block that is no packet is" if count == 1 else f"{count} blocks that are no packets are"
                said.append(f"{self.path}: {blocks} left out: longer than {LONGEST_PASSED_BLOCK_BYTES} bytes")
        return [line for line in said if line is not None]


def _pieces_of(fd: int, stop: Stop) -> Iterator[bytes]:
    """What comes by a file descriptor, up to its end, or until it has been stopped."""
    if not is_seekable(fd):
        while piece := _read_some(fd, _COPY_BYTES, stop):
            yield piece
        return
    position = os.lseek(fd, 0, os.SEEK_CUR)  # which stays: standard input has it in common with others
    while (piece := os.pread(fd, _COPY_BYTES, position)) and not stop.is_set:
        position += len(piece)
        yield piece


def _read_some(fd: int, size: int, stop: Stop) -> bytes:
    """What there is to read, once there is something; b"" at the end, or when it has been stopped."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(stop.fileno(), select.POLLIN)
    while all(ready != stop.fileno() for ready, _ in poll.poll()):
        with contextlib.suppress(BlockingIOError):  # somebody else has read it
            return os.read(fd, size)
    return b""


def _open_path(path: str) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # open(2) of a FIFO would wait for a writer
    try:
        fd = os.dup(0) if path == "-" else os.open(path, flags)
    except OSError as error:
        raise CaptureFileError(f"{path}: {error.strerror}") from None
    mode = os.fstat(fd)
    if stat.S_ISDIR(mode.st_mode) or (stat.S_ISREG(mode.st_mode) and mode.st_size == 0):
        os.close(fd)
        what = "a directory, not a capture file" if stat.S_ISDIR(mode.st_mode) else "the file is empty"
        raise CaptureFileError(f"{path}: {what}")
    return fd
