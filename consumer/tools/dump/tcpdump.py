"""tcpdump as the program that prints packets: found, started, fed through a pipe, and ended.

It reads a classic pcap file with stamps in nanoseconds from its standard input, and writes lines to the standard output
of this process. It is alone in what it may do: where this process is root, tcpdump runs as a user who may do nothing.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from zbuf.consumer.tools.dump.pcap import pcap_header
from zbuf.shared.errors import ZbufError

_FOLDERS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
_USERS = ("tcpdump", "nobody")
_NOBODY = 65534  # where no user has a name
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PIPE_BYTES = 1 << 20
_LOOK_S = 0.0005
_PRINTABLE = {0, 1, 9, 12, 101, 105, 108, 113, 127, 228, 229, 276}
"""Link types that every tcpdump prints: common ones, for which it isn't asked."""
_CHATTER = ("reading from file", "dropped privs", "tcpdump: listening")

_STDOUT = 1


def find_tcpdump() -> str | None:
    """The path of tcpdump; None if it is not installed."""
    return shutil.which("tcpdump") or shutil.which("tcpdump", path=_FOLDERS)


def can_print(program: str, linktype: int) -> bool:
    """Whether tcpdump prints packets of a link type."""
    if linktype in _PRINTABLE:
        return True
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [program, "-r", "-"]
    for who in _users():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(words, input=pcap_header(linktype, 65535), **quiet, **who).returncode == 0  # noqa: S603
    return False


class CannotStart(Exception):
    """tcpdump can't be run as a user without rights: this process is root's, and may not become anybody else."""


class Tcpdump:
    """A tcpdump that prints packets as it gets them.

    Args:
        program: its path.
        words: more options.
        linktype: the link type of all packets.
        snaplen: the most bytes of a packet.

    Raises:
        CannotStart: it would run as root.
    """

    def __init__(self, program: str, words: list[str], linktype: int, snaplen: int) -> None:
        self._said = os.memfd_create("tcpdump's stderr", os.MFD_CLOEXEC)
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._said)
            undo.callback(os.close, self._pipe)
            with os.fdopen(reading):
                self._process = _start([program, "-l", *words, "-r", "-"], reading, self._said)
            undo.pop_all()
        with contextlib.suppress(OSError):  # the user has enough of them
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._write(memoryview(pcap_header(linktype, snaplen)))

    def print(self, records: memoryview) -> None:
        """Have whole records of a pcap file printed.

        Raises:
            BrokenPipeError: nobody reads the lines any more.
            ZbufError: tcpdump has ended.
        """
        self._write(records)

    def print_after_line(self, line: str, records: memoryview) -> None:
        """Write a line of one's own, after the lines of all earlier records and before those of these."""
        # tcpdump asks for more bytes when it has printed all whole records that it has, and only then. So when it has
        # taken everything up to the first byte of a record, and then this byte, it has printed the record before.
        self._wait_until_taken()
        with records[:1] as byte:
            self._write(byte)
        self._wait_until_taken()
        os.write(_STDOUT, line.encode())
        with records[1:] as rest:
            self._write(rest)

    def finish(self) -> None:
        """Wait until everything is printed, and raise the error of tcpdump, or pass on its warnings."""
        self._end_of_input()
        status = self._process.wait()
        if status and _nobody_reads():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._judge(status)

    def close(self) -> None:
        """Let it print what it has, and take what is left of it; a second call does nothing."""
        if self._said < 0:
            return
        self._end_of_input()
        self._process.wait()
        os.close(self._said)
        self._said = -1

    # ---- the pipe -----------------------------------------------------------------------------------------------

    def _write(self, data: memoryview) -> None:
        written = 0
        try:
            while written < len(data):
                with data[written:] as rest:
                    written += os.write(self._pipe, rest)
        except BrokenPipeError:
            self._has_ended()

    def _wait_until_taken(self) -> None:
        watch = select.poll()
        watch.register(self._pipe, 0)  # POLLERR is always reported
        while int.from_bytes(fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
            if watch.poll(0):
                self._has_ended()
            time.sleep(_LOOK_S)

    def _end_of_input(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe = -1

    # ---- its end ------------------------------------------------------------------------------------------------

    def _has_ended(self) -> NoReturn:
        """Raise the error of a tcpdump that has ended before its input did."""
        status = self._process.wait()
        if _nobody_reads():
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        self._judge(status)
        raise ZbufError("tcpdump has ended before all packets were printed: use -w to write them to a file")

    def _judge(self, status: int) -> None:
        lines = [line for line in self._words() if not line.startswith(_CHATTER)]
        if status < 0:
            raise ZbufError(f"tcpdump was ended by {signal.Signals(-status).name}: use -w to write packets to a file")
        if status:
            raise ZbufError(lines[-1] if lines else f"tcpdump ended with status {status}")
        for line in lines:
            sys.stderr.write(f"{line}\n")

    def _words(self) -> list[str]:
        size = os.fstat(self._said).st_size
        return os.pread(self._said, size, 0).decode(errors="backslashreplace").splitlines()


def _nobody_reads() -> bool:
    watch = select.poll()
    watch.register(_STDOUT, 0)
    return bool(watch.poll(0))


# ---- its start ------------------------------------------------------------------------------------------------------


def _start(command: list[str], reading: int, said: int) -> "subprocess.Popen[bytes]":
    """Start tcpdump as a user without rights. (Its own -Z needs that user to be there, and root's rights.)"""
    with _ends_with_its_input():
        for who in _users():
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # a container may not have that user
                return subprocess.Popen(command, stdin=reading, stderr=said, **who)  # noqa: S603
    raise CannotStart


def _users() -> Iterator[dict[str, Any]]:
    if os.geteuid() != 0:
        yield {}
        return
    for name in _USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            yield {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    yield {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}


@contextlib.contextmanager
def _ends_with_its_input() -> Iterator[None]:
    """Have a process that is started in the `with` block wait for the end of its input, whatever Ctrl-C would end.

    The terminal sends Ctrl-C to both: this process ends in good order then, and tcpdump prints what it still gets.
    A signal that is blocked stays so in the program that is started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
