"""The run directory: where producers are found, and how a name belongs to one producer at a time.

A producer NAME has NAME.sock, its control socket, and NAME.lock, which it holds with flock(2) as long as it lives. The
kernel drops that lock however the producer ends, so no process id is needed.
"""

import fcntl
import os
import stat
from pathlib import Path

from zbuf.shared.errors import ProducerExists, RunDirectoryError, ValueRefused
from zbuf.shared.names import check_name

SYSTEM_DIRECTORY = Path("/run/zbuf")
_SOCKET_PATH_MAX = 107  # sun_path of unix(7), less its NUL


def run_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """A producer's run directory: `chosen`, else ZBUF_RUN_DIR, else /run/zbuf for root, else $XDG_RUNTIME_DIR/zbuf.

    Raises:
        RunDirectoryError: none of them is set. (A directory under /tmp could belong to anybody.)
    """
    if chosen or os.environ.get("ZBUF_RUN_DIR"):
        return Path(chosen or os.environ["ZBUF_RUN_DIR"])
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY
    if os.environ.get("XDG_RUNTIME_DIR"):
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "zbuf"
    raise RunDirectoryError("no run directory: XDG_RUNTIME_DIR is not set: give --run-dir or set ZBUF_RUN_DIR")


def search_path(chosen: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where a client looks for producers: in its own run directory, see run_directory(), and then in the system's.

    If `chosen` or ZBUF_RUN_DIR names a directory, it looks only there.
    """
    try:
        own = run_directory(chosen)
    except RunDirectoryError:
        return [SYSTEM_DIRECTORY]
    named = bool(chosen or os.environ.get("ZBUF_RUN_DIR"))
    return [own] if named or own == SYSTEM_DIRECTORY else [own, SYSTEM_DIRECTORY]


def directory_mode(socket_mode: int) -> int:
    """The permissions of a run directory: those who may write to the socket may enter and list its directory."""
    return 0o700 | (0o050 if socket_mode & 0o020 else 0) | (0o005 if socket_mode & 0o002 else 0)


def make_run_directory(directory: Path, *, mode: int = 0o700, uid: int | None = None, gid: int | None = None) -> None:
    """Make `directory`, or open our own to others as far as `mode` says, and check that it can be written.

    Args:
        directory: its path.
        mode: its permissions; a directory that exists keeps those that it has.
        uid: its owner, which only root can choose; by default the process's own user.
        gid: its group, to which `mode` applies.

    Raises:
        RunDirectoryError: it can't be made or written, or belongs to somebody else.
    """
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat()
        owner = found.st_uid
        if owner == os.geteuid() or (os.geteuid() == 0 and owner == uid):
            if gid is not None or uid is not None:
                os.chown(directory, -1 if uid is None else uid, -1 if gid is None else gid)
            if mode & 0o077 & ~found.st_mode:
                directory.chmod(stat.S_IMODE(found.st_mode) | mode & 0o077)
    except OSError as error:
        raise RunDirectoryError(f"run directory {directory}: {error.strerror}: choose another with --run-dir") from None
    if owner not in (0, os.geteuid(), uid):
        raise RunDirectoryError(f"run directory {directory} belongs to user {owner}: choose another with --run-dir")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RunDirectoryError(
            f"run directory {directory}: no permission to write: choose another with --run-dir or ZBUF_RUN_DIR"
        )


def socket_path(directory: Path, name: str) -> Path:
    """The control socket of the producer `name`; raises ValueRefused if the path is too long for unix(7)."""
    path = directory / f"{check_name(name)}.sock"
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise ValueRefused(f"socket path {path} is longer than {_SOCKET_PATH_MAX} bytes: use a shorter --run-dir")
    return path


def producer_names(directory: Path) -> list[str]:
    """The names that have a control socket in `directory`, sorted; some may belong to killed producers."""
    try:
        return sorted(entry.name.removesuffix(".sock") for entry in directory.iterdir() if entry.name.endswith(".sock"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunDirectoryError(f"run directory {directory}: {error.strerror}") from None


class NameLock:
    """The right to be the producer `name` in `directory`, until release() or the end of the process.

    Raises ProducerExists if another process has it.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / f"{name}.lock"
        while True:
            self._fd = self._open(directory)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise ProducerExists(
                    f"producer {name!r} runs already in {directory}: stop it, or choose another --name"
                ) from None
            if self._is_current():
                return
            os.close(self._fd)  # the holder before us removed the file between our open and our lock

    def _open(self, directory: Path) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise RunDirectoryError(
                f"run directory {directory}: {error.strerror}: choose another with --run-dir or ZBUF_RUN_DIR"
            ) from None

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give up the name; call this once."""
        self._path.unlink(missing_ok=True)
        os.close(self._fd)

    def forget(self) -> None:
        """In a forked child, which is not the producer: leave the lock to the parent alone."""
        os.close(self._fd)
