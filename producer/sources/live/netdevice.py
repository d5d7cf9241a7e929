"""What the kernel says of its network interfaces (netdevice(7)), which it knows by number; names may change.

A name is bytes. In here it is a str as of os.fsdecode(), where a byte that is not UTF-8 is a lone surrogate. People and
JSON see what printable() makes of it.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct

_SIOCGIFFLAGS, _IFF_UP, _IFF_LOOPBACK = 0x8913, 0x1, 0x8
_IFREQ = struct.Struct("16sH22x")
_GONE = (errno.ENXIO, errno.ENODEV, errno.ENETDOWN)  # what the kernel says of an interface; not, for one, EMFILE


def printable(name: str) -> str:
    r"""A name that can be written as UTF-8: a byte that is not shows as \xff does."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def index_of(name: str) -> int | None:
    """The number of a network interface; None if there is no such interface. One that is made again has another."""
    with contextlib.suppress(OSError, ValueError):
        return socket.if_nametoindex(name)
    return None


def name_of(index: int) -> str | None:
    """The name that a network interface has now; None where it is gone.

    Raises:
        OSError: that can't be found out now: out of file descriptors, for one.
    """
    try:
        return socket.if_indextoname(index)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def is_up(name: str) -> bool:
    """Whether an interface is up; always true for other devices, such as any or nflog."""
    flags = _flags(name)
    return flags is None or bool(flags & _IFF_UP)


def is_loopback(name: str) -> bool:
    """Whether an interface is a loopback interface."""
    return bool((_flags(name) or 0) & _IFF_LOOPBACK)


def _flags(name: str) -> int | None:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(os.fsencode(name)[:15], 0))
        return int(_IFREQ.unpack(answer)[1])
    return None
