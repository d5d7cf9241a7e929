"""A producer's own directory in a run directory: made, owned and removed by the producer.

RUN/NAME has one file, control.sock, the control socket. RUN/NAME.sock is a link to it, for programs that want one path.
The producer holds RUN/NAME itself by flock(2) as long as it lives. However it ends, the kernel drops that lock, so no
process id is needed. Others may enter the directory as far as they may use the socket, but not read it, because who can
open a directory for reading can lock it.

What a killed producer left is removed by the next one of that name; so are flat sockets and locks of older versions.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from zbuf.shared.control.rundir import open_run_directory
from zbuf.shared.errors import ProducerExists, RunDirectoryError, ValueRefused
from zbuf.shared.names import check_name
from zbuf.shared.users import user_name

SOCKET = "control.sock"
_SOCKET_PATH_MAX = 107  # sun_path of unix(7), less its NUL
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 20  # another producer that starts or ends at the same time costs one


def socket_path(run_dir: Path, name: str) -> Path:
    """The control socket of the producer `name`; raises ValueRefused if the path is too long for unix(7)."""
    path = run_dir / check_name(name) / SOCKET
    if len(os.fsencode(path)) > _SOCKET_PATH_MAX:
        raise ValueRefused(f"socket path {path} is longer than {_SOCKET_PATH_MAX} bytes: use a shorter --run-dir")
    return path


def link_name(name: str) -> str:
    """The link to a producer's socket, in the run directory; in older versions, the socket itself."""
    return f"{name}.sock"


class ProducerDirectory:
    """The right to be the producer `name` in a run directory, until release() or the end of the process.

    Args:
        run_dir: the run directory, which is made if it is missing.
        name: the producer's.
        socket_mode: the permissions that the control socket will have: they say who may enter.
        uid: the owner, whom this process, as root, is going to become; by default, its own user.
        gid: the group of the directory, and of the socket that is made in it; by default, the process's.

    Raises:
        ValueRefused: the name can't be used, or makes the socket's path too long.
        ProducerExists: a producer of that name runs there, or the name is another user's.
        RunDirectoryError: the directory can't be made, or given to that user or group.
    """

    def __init__(
        self, run_dir: Path, name: str, *, socket_mode: int = 0o600, uid: int | None = None, gid: int | None = None
    ) -> None:
        self.run_dir = run_dir
        self.name = name
        self.socket_mode = socket_mode
        self.gid = gid
        self.socket = socket_path(run_dir, name)
        self._helper: Callable[[], None] | None = None
        self._parent = open_run_directory(run_dir, uid=uid)
        try:
            self._fd = self._claim()
        except OSError as error:
            os.close(self._parent)
            raise self._cannot(error) from None
        except BaseException:
            os.close(self._parent)
            raise
        try:
            self._hand_over(uid)
            self._link()
        except BaseException:
            self.release()
            raise

    # ---- claiming -----------------------------------------------------------------------------------------------

    def _claim(self) -> int:
        """Make the directory, and lock it; returns its file descriptor."""
        self._clear_older()
        for _ in range(_TRIES):
            self._clear()
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.name, 0o700, dir_fd=self._parent)
                if (fd := self._lock()) is not None:
                    return fd
        raise self._taken()

    def _lock(self) -> int | None:
        """Lock what was made just now; None if another producer that starts took it for a dead one's."""
        try:
            fd = os.open(self.name, _OPEN, dir_fd=self._parent)
        except OSError:
            return None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current(fd):
                return fd
        os.close(fd)
        return None

    def _is_current(self, fd: int) -> bool:
        with contextlib.suppress(OSError):
            look = os.stat(self.name, dir_fd=self._parent, follow_symlinks=False)
            return os.path.samestat(os.fstat(fd), look)
        return False

    def _clear(self) -> None:
        """Remove what a dead producer, or nobody, has under our name; root does so with what another user put there."""
        try:
            look = os.stat(self.name, dir_fd=self._parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if os.geteuid() not in (0, look.st_uid):
            raise self._taken(look.st_uid)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(look.st_mode):
                self._clear_directory(look)
            else:
                os.unlink(self.name, dir_fd=self._parent)

    def _clear_directory(self, look: os.stat_result) -> None:
        fd = os.open(self.name, _OPEN, dir_fd=self._parent)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(fd), look) or not self._is_current(fd):
                return
            if look.st_uid != os.geteuid():
                from shutil import rmtree  # it takes long to import, and this is rare

                rmtree(self.name, dir_fd=self._parent)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(SOCKET, dir_fd=fd)
            os.rmdir(self.name, dir_fd=self._parent)
        except BlockingIOError:
            raise self._taken(look.st_uid) from None
        finally:
            os.close(fd)

    def _clear_older(self) -> None:
        """Remove the socket and the lock that a killed producer of an older version left in the run directory."""
        if self._kind(link_name(self.name)) == stat.S_IFSOCK:
            if self._answers():
                raise self._taken()
            self._remove(link_name(self.name))
            if self._kind(f"{self.name}.lock") == stat.S_IFREG:
                self._remove(f"{self.name}.lock")

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as client:
            try:
                client.connect(f"/proc/self/fd/{self._parent}/{link_name(self.name)}")
            except BlockingIOError:  # it is busy
                return True
            except OSError:
                return False
            return True

    # ---- what others get of it ----------------------------------------------------------------------------------

    def _hand_over(self, uid: int | None) -> None:
        """Give what this call made to its owner and group, by its file descriptor."""
        entering = (0o010 if self.socket_mode & 0o020 else 0) | (0o001 if self.socket_mode & 0o002 else 0)
        inherit_group = 0 if self.gid is None else stat.S_ISGID  # by what is made in it: the socket
        try:
            if uid is not None or self.gid is not None:
                os.fchown(self._fd, -1 if uid is None else uid, -1 if self.gid is None else self.gid)
            os.fchmod(self._fd, 0o700 | entering | inherit_group)
        except OSError as error:
            to = " and ".join(
                f"{what} {number}" for what, number in (("user", uid), ("group", self.gid)) if number is not None
            )
            raise RunDirectoryError(
                f"directory {self.socket.parent}: can't give it to {to}: {error.strerror}: start as root"
                + ("" if self.gid is None else ", or as a member of the group")
            ) from None

    def _link(self) -> None:
        """Make the link to the socket; a producer can do without it, where another user's file has its name."""
        if self._kind(link_name(self.name)) == stat.S_IFLNK:
            self._remove(link_name(self.name))
        with contextlib.suppress(OSError):
            os.symlink(f"{self.name}/{SOCKET}", link_name(self.name), dir_fd=self._parent)

    def _kind(self, file: str) -> int:
        """What kind of file is in the run directory under a name; 0 for none."""
        try:
            return stat.S_IFMT(os.stat(file, dir_fd=self._parent, follow_symlinks=False).st_mode)
        except OSError:
            return 0

    def _remove(self, file: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(file, dir_fd=self._parent)

    # ---- errors -------------------------------------------------------------------------------------------------

    def _taken(self, uid: int | None = None) -> ProducerExists:
        if uid is None or uid == os.geteuid():
            return ProducerExists(
                f"producer {self.name!r} runs already in {self.run_dir}: stop it, or choose another --name"
            )
        return ProducerExists(
            f"the name {self.name!r} is taken in {self.run_dir} by user {user_name(uid)}: choose another --name"
        )

    def _cannot(self, error: OSError) -> RunDirectoryError:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"run directory {self.run_dir}: no permission to write ({error.strerror})"
        elif error.errno == errno.ENOTEMPTY:
            return RunDirectoryError(
                f"directory {self.socket.parent} has files that are not zbuf's: remove it, or choose another --name"
            )
        else:
            what = f"run directory {self.run_dir}: {error.strerror}"
        return RunDirectoryError(f"{what}: choose another with --run-dir or ZBUF_RUN_DIR")

    # ---- the end ------------------------------------------------------------------------------------------------

    @property
    def fds(self) -> tuple[int, ...]:
        """The file descriptors that remove() needs."""
        return (self._parent,)

    def removed_by(self, helper: Callable[[], None]) -> None:
        """Have release() call `helper`, which calls remove() with rights that this process is going to give up."""
        self._helper = helper

    def remove(self) -> None:
        """Remove the directory, once it is empty, and the link, as far as the rights of this process go."""
        if self._kind(link_name(self.name)) == stat.S_IFLNK:
            self._remove(link_name(self.name))
        with contextlib.suppress(OSError):
            os.rmdir(self.name, dir_fd=self._parent)

    def release(self) -> None:
        """Remove the directory with all that is in it, and give up the name; again does nothing."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(SOCKET, dir_fd=self._fd)
        self.remove()
        if self._helper is not None:
            self._helper()
        self.forget()

    def forget(self) -> None:
        """Close what this process has open of it: in a forked child, this leaves the name to the parent alone."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            os.close(self._parent)
