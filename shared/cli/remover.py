"""A helper that removes, at the end, what this process could only make as root.

Root makes a producer's directory in a run directory that only root may write to, and then becomes another user. That
user can't take the directory away again. So a forked process stays behind as root, without capabilities. It waits to be
asked, does that one thing, and ends. It also ends, and removes nothing, when the process that started it is killed.
"""

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterable
from typing import NoReturn

from zbuf.shared.cli import privileges

_ASKED = b"remove"
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def start_remover(remove: Callable[[], None], fds: Iterable[int]) -> Callable[[], None]:
    """Start the helper; call this before there are threads, and before anything else is open that must close in time.

    Args:
        remove: what it does when it is asked.
        fds: the file descriptors that `remove` needs; the helper has no others.

    Returns:
        A function that asks it, and returns when it has ended.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _live(theirs.fileno(), remove, {*fds, theirs.fileno()})
    theirs.close()

    def ask() -> None:
        with ours, contextlib.suppress(OSError):
            ours.send(_ASKED)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)

    return ask


def _live(fd: int, remove: Callable[[], None], kept: set[int]) -> NoReturn:
    try:
        for number in _IGNORED:  # of a terminal, or of a service manager, for all processes at once: we end with ours
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(kept)
        privileges.drop(None)
        if os.read(fd, len(_ASKED)) == _ASKED:
            remove()
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    least = 3
    for fd in [*sorted(one for one in kept if one >= least), 1 << 20]:
        os.closerange(least, fd)
        least = fd + 1
