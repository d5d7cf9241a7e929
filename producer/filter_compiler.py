"""The process that compiles filters for readers: see zbuf.producer.compiling, which starts it and asks it.

It forks a child for each request, before that comes, so that nobody waits for a fork. The child trusts the expression
in nothing: it has a limit of processor time, of memory and of wall time, it can't open any file or socket (so that
libpcap finds no host and no service by name), and it ends with its parent.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

from zbuf.producer.compiling import CPU_S, ERROR, EXPRESSION_BYTES_MAX, PROGRAM, REQUEST, WALL_S
from zbuf.producer.filters import compile_as, compile_filter, end_with_parent
from zbuf.shared.errors import FilterError

_MEMORY_BYTES = 256 << 20
"""What an expression may take to compile, beside what this process has anyway."""
_NICE = 10
_SHORT_BYTES = 256
"""Up to here no expression takes more than some milliseconds."""
_NOBODY = 65534


def main() -> None:
    """Answer requests until whoever sends them closes the socket; the arguments say which, and what is live."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):  # of a terminal; and nobody waits for children
        signal.signal(number, signal.SIG_IGN)
    if live := json.loads(sys.argv[2]):
        _open_live(live)
        requests.send(b"!")  # whoever started this waits for it
    address_space = _address_space_bytes() + _MEMORY_BYTES
    gc.freeze()  # the children share these pages for longer
    while _fork_one(requests, address_space):
        pass


def _fork_one(requests: socket.socket, address_space: int) -> bool:
    """Fork a child that waits for a request; returns once it has one, or False when no more will come."""
    heard, tells = os.pipe()
    try:
        child = os.fork() == 0
    except OSError:  # too many processes: whoever asks next starts this anew
        return False
    if child:
        _answer_one(requests, tells, address_space)
    os.close(tells)
    try:
        return os.read(heard, 1) != b""
    finally:
        os.close(heard)


def _open_live(live: list[tuple[int, str, str | None]]) -> None:
    from zbuf.producer.sources.live.libpcap_interface import LiveFilters

    for linktype, name, asked in live:
        compile_as(linktype, LiveFilters(name, asked).compile)


def _answer_one(requests: socket.socket, tells: int, address_space: int) -> NoReturn:
    """In a child: wait for a request, compile, answer, and end."""
    try:
        end_with_parent()
        request, fds, _, _ = socket.recv_fds(requests, REQUEST.size + EXPRESSION_BYTES_MAX, 1)
        if fds:
            os.write(tells, b"!")
            linktype, names = REQUEST.unpack_from(request)
            _confine(address_space, names=names, in_a_hurry=len(request) < _SHORT_BYTES)
            with open(fds[0], "wb") as file:
                file.write(_compiled(request[REQUEST.size :].decode("utf-8", "surrogateescape"), linktype))
    finally:
        os._exit(0)


def _compiled(expression: str, linktype: int) -> bytes:
    try:
        return PROGRAM + compile_filter(expression, linktype, optimize=True)
    except FilterError as error:
        return ERROR + str(error).encode("utf-8", "replace")


def _confine(address_space: int, *, names: bool, in_a_hurry: bool) -> None:
    """Give up what compiling does not take; a limit that can't be set ends this child."""
    if os.geteuid() == 0:
        _become_nobody()
        end_with_parent()  # again: that was undone
    for number in (signal.SIGXCPU, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(WALL_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    if not names:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if not in_a_hurry:
        with contextlib.suppress(OSError):  # a sandbox forbids it
            os.nice(_NICE)


def _become_nobody() -> None:
    try:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    except OSError:  # a namespace without that user, or a sandbox: it stays as confined as the rest makes it
        return


def _address_space_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
