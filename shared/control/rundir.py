"""Run directories: which there are, and how one is opened.

A run directory has a directory for each producer, which rundir_place makes and rundir_look finds. The run directory
itself is made once, stays, and belongs to whoever made it: root's is for root alone to make directories in. One that an
administrator makes for several users is like /tmp: it has the sticky bit, so that nobody removes what is another's.

No symbolic link of another user's is followed on the way to it, or root could be led to make, or give away, a directory
elsewhere.
"""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from zbuf.shared.errors import RunDirectoryError

SYSTEM_DIRECTORY = Path("/run/zbuf")
SERVICE_DIRECTORY = Path("/run/zbufd")
"""The one that systemd makes for the service, and gives to its user."""
_USERS, _TEMPORARY = Path("/run/user"), Path("/tmp")  # noqa: S108  (whose it is, is looked at)
_OF_A_USER = re.compile(r"zbuf-([0-9]+)")
_MODE = 0o755
_LINKS_MAX = 40  # as many as the kernel follows
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


# ---- which ----------------------------------------------------------------------------------------------------------


def run_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """A producer's run directory: `chosen`, else ZBUF_RUN_DIR, else /run/zbuf for root, else the user's own.

    The user's own is $XDG_RUNTIME_DIR/zbuf, or /tmp/zbuf-UID where that variable is not set.
    """
    if named := chosen or os.environ.get("ZBUF_RUN_DIR"):
        return Path(named)
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "zbuf"
    return _TEMPORARY / f"zbuf-{os.geteuid()}"


def search_path(chosen: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where a client looks for a producer: in its user's run directories, and then in the system's.

    If `chosen` or ZBUF_RUN_DIR names a directory, it looks only there.
    """
    own = run_directory(chosen)
    if chosen or os.environ.get("ZBUF_RUN_DIR"):
        return [own]
    temporary = _TEMPORARY / f"zbuf-{os.geteuid()}"
    return list(dict.fromkeys([own, *([temporary] if temporary.exists() else []), SYSTEM_DIRECTORY, SERVICE_DIRECTORY]))


def every_directory(chosen: str | os.PathLike[str] | None = None) -> list[Path]:
    """search_path(), and the run directories of other users that this user can see; no directory comes twice."""
    found = search_path(chosen)
    if chosen or os.environ.get("ZBUF_RUN_DIR"):
        return found
    seen = [_identity(one) for one in found]
    return found + [other for other in _of_other_users() if _identity(other) not in seen]


def _identity(directory: Path) -> tuple[int, int] | Path:
    with contextlib.suppress(OSError):
        look = directory.stat()
        return look.st_dev, look.st_ino
    return directory


def _of_other_users() -> Iterator[Path]:
    """Directories that are named for the user who owns them; what somebody else made under that name is none."""
    for parent, pattern, rest in ((_USERS, re.compile("([0-9]+)"), "zbuf"), (_TEMPORARY, _OF_A_USER, ".")):
        for name in _sorted_names(parent):
            if match := pattern.fullmatch(name):
                with contextlib.suppress(OSError):
                    look = (parent / name / rest).lstat()
                    if stat.S_ISDIR(look.st_mode) and look.st_uid == int(match[1]):
                        yield parent / name / rest


def _sorted_names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


# ---- opening one ----------------------------------------------------------------------------------------------------


def open_run_directory(directory: Path, *, uid: int | None = None) -> int:
    """Open a run directory in which a producer is to be made, and make it if it is not there.

    Args:
        directory: its path.
        uid: a user that it may belong to, beside root and this process's own.

    Returns:
        A file descriptor (O_PATH), the caller's to close.

    Raises:
        RunDirectoryError: it can't be made, belongs to somebody else, or everybody may remove what others made in it.
    """
    try:
        fd = open_directory(directory, make=True)
    except OSError as error:
        raise RunDirectoryError(f"run directory {directory}: {error.strerror}: choose another with --run-dir") from None
    look = os.fstat(fd)
    if look.st_uid not in (0, os.geteuid(), uid):
        problem = f"run directory {directory} belongs to user {look.st_uid}: choose another with --run-dir"
    elif look.st_mode & stat.S_IWOTH and not look.st_mode & stat.S_ISVTX:
        problem = f"run directory {directory}: everybody may remove what is in it: chmod +t {directory}"
    else:
        return fd
    os.close(fd)
    raise RunDirectoryError(problem)


def open_directory(directory: Path, *, make: bool = False) -> int:
    """Open a directory, which no symbolic link of another user's leads to; root's and our own links are followed.

    Args:
        directory: its path.
        make: make it, and the directories above it, where they are missing: mode 755, this user's.

    Returns:
        A file descriptor (O_PATH), the caller's to close.

    Raises:
        OSError: there is none, it can't be made, or such a link is on the way.
    """
    left = list(reversed(Path(os.path.abspath(directory)).parts))
    here, links = os.open(left.pop(), _WALK), 0
    try:
        while left:
            name = left.pop()
            there = _enter(here, name, make=make)
            look = os.fstat(there)
            if stat.S_ISLNK(look.st_mode):
                links += 1
                left += reversed(_target(there, look, links).parts)
            elif stat.S_ISDIR(look.st_mode):
                here = _replace(here, there)
            else:
                os.close(there)
                raise NotADirectoryError(20, "Not a directory")
            if left and left[-1] == "/":
                here = _replace(here, os.open(left.pop(), _WALK))
    except BaseException:
        os.close(here)
        raise
    return here


def _replace(fd: int, by: int) -> int:
    os.close(fd)
    return by


def _target(link: int, look: os.stat_result, links: int) -> Path:
    """Where a link leads; closes it."""
    try:
        if look.st_uid not in (0, os.geteuid()):
            raise OSError(40, f"user {look.st_uid} made a symbolic link on the way there")
        if links > _LINKS_MAX:
            raise OSError(40, os.strerror(40))
        return Path(os.readlink("", dir_fd=link))
    finally:
        os.close(link)


def _enter(here: int, name: str, *, make: bool) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, _WALK, dir_fd=here)
    if not make:
        raise FileNotFoundError(2, os.strerror(2))
    try:
        os.mkdir(name, 0o700, dir_fd=here)
    except FileExistsError:  # another producer was faster, and will set its mode
        return os.open(name, _WALK, dir_fd=here)
    there = os.open(name, _WALK | os.O_DIRECTORY, dir_fd=here)
    os.chmod(f"/proc/self/fd/{there}", _MODE)
    return there
