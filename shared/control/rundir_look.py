"""What clients find in run directories: which producers live, which are closed to this user, and their sockets.

A producer is found by RUN/NAME/control.sock; one of an older version by RUN/NAME.sock. No symbolic link is followed
from the run directory on: it could lead to the socket of another service, which takes root's word for more than ours.
"""

import contextlib
import os
import re
import socket
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zbuf.shared.control.rundir import open_directory, search_path
from zbuf.shared.control.rundir_place import SOCKET, link_name
from zbuf.shared.errors import RunDirectoryError
from zbuf.shared.names import NAME_LENGTH_MAX, NAME_PATTERN

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME = re.compile(NAME_PATTERN)
_LOCKS = Path("/proc/locks")
_BUSY_S = 1.0  # how long a producer that lives may take to accept a connection


@dataclass(frozen=True)
class Running:
    """A producer that lives."""

    name: str
    directory: Path
    """The run directory that it is in."""
    owner: int
    """User id."""
    state: Literal["open", "closed"]
    """Whether this user may use its control socket."""


def connect_to(directory: Path, name: str, timeout_s: float) -> socket.socket:
    """Connect to the control socket of the producer `name` in a run directory.

    The timeouts for this and for what follows are the kernel's: Python's would make the socket non-blocking, and
    connecting to a busy producer fail.

    Raises:
        OSError: there is none, it is dead, or this user may not.
    """
    fd = _open_socket(directory, name)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    whole = int(timeout_s)
    try:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            timeout = struct.pack("@ll", whole, int((timeout_s - whole) * 1e6))
            connection.setsockopt(socket.SOL_SOCKET, option, timeout)
        connection.connect(f"/proc/self/fd/{fd}")  # exactly the file that was looked at
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(fd)
    return connection


def running(directory: Path) -> list[Running]:
    """The producers that live in a run directory, by name; none if it is not there.

    Raises:
        RunDirectoryError: it can't be read.
    """
    return [one for name in possible_names(directory) if (one := look_for(directory, name)) is not None]


def producer_names(directory: Path) -> list[str]:
    """The names of the producers that live in `directory`, sorted; RunDirectoryError if it can't be read."""
    return [one.name for one in running(directory)]


def open_names(run_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The names, sorted, of the producers on the search path that live and are open to this user."""
    found: set[str] = set()
    for directory in search_path(run_dir):
        with contextlib.suppress(RunDirectoryError):
            found.update(one.name for one in running(directory) if one.state == "open")
    return sorted(found)


def look_for(directory: Path, name: str) -> Running | None:
    """The producer `name` in a run directory, if it lives."""
    found, connection = reach(directory, name, _BUSY_S)
    if connection is not None:
        connection.close()
    return found


def reach(directory: Path, name: str, timeout_s: float) -> tuple[Running | None, socket.socket | None]:
    """The producer `name` in a run directory, if it lives, and a connection to it, if this user may and it is not busy.

    Whether one lives that is closed to this user is told by its lock.
    """
    connection, state = None, "open"
    try:
        connection = connect_to(directory, name, timeout_s)
    except PermissionError:
        state = "closed"
    except BlockingIOError:
        pass
    except OSError:
        return None, None
    look = _stat(directory, name)
    if look is None or (state == "closed" and stat.S_ISDIR(look.st_mode) and not _is_locked(look)):
        return None, connection
    return Running(name, directory, look.st_uid, "closed" if state == "closed" else "open"), connection


def possible_names(directory: Path) -> list[str]:
    """All names that producers have, or killed ones have had, in a run directory; RunDirectoryError as running()."""
    found = set()
    try:
        for entry in _entries(directory):
            name = entry.name
            if not entry.is_dir(follow_symlinks=False):
                name = name.removesuffix(link_name(""))
                if name == entry.name or not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    continue
            if len(name) <= NAME_LENGTH_MAX and _NAME.fullmatch(name):
                found.add(name)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunDirectoryError(f"run directory {directory}: {error.strerror}") from None
    return sorted(found)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    here = open_directory(directory)
    try:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)
    try:
        with os.scandir(fd) as entries:
            found = list(entries)
        for one in found:
            with contextlib.suppress(FileNotFoundError):
                one.stat(follow_symlinks=False)  # kept by the entry: it can't be asked for once fd is closed
        return found
    finally:
        os.close(fd)


def _open_socket(directory: Path, name: str) -> int:
    """The socket, opened by O_PATH."""
    here = open_directory(directory)
    try:
        try:
            own = os.open(name, _LOOK | os.O_DIRECTORY, dir_fd=here)
        except (FileNotFoundError, NotADirectoryError):
            return _a_socket(link_name(name), here)
        try:
            return _a_socket(SOCKET, own)
        finally:
            os.close(own)
    finally:
        os.close(here)


def _a_socket(file: str, directory: int) -> int:
    fd = os.open(file, _LOOK, dir_fd=directory)
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise FileNotFoundError(2, os.strerror(2))


def _stat(directory: Path, name: str) -> os.stat_result | None:
    """The producer's directory; or its socket, in older versions."""
    try:
        here = open_directory(directory)
    except OSError:
        return None
    try:
        for file, is_kind in ((name, stat.S_ISDIR), (link_name(name), stat.S_ISSOCK)):
            with contextlib.suppress(FileNotFoundError):
                look = os.stat(file, dir_fd=here, follow_symlinks=False)
                if is_kind(look.st_mode):
                    return look
        return None
    finally:
        os.close(here)


def _is_locked(look: os.stat_result) -> bool:
    """Whether somebody holds a directory by flock(2), as the kernel tells everybody (proc_locks(5))."""
    wanted = f"{os.major(look.st_dev):02x}:{os.minor(look.st_dev):02x}:{look.st_ino}"
    try:
        return any(words[1] == "FLOCK" and wanted in words for words in map(str.split, _LOCKS.read_text().splitlines()))
    except OSError:
        return False
