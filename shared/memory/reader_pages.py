"""What each reader has for itself: an ack page, which it writes, and a doorbell, which the producer rings.

An ack page is a memfd, sealed against any change of its size, so that its reader can't make the producer fault on it.
"""

import fcntl
import mmap
import os
import socket

from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import ACK_BYTES


def make_doorbell() -> tuple[int, int]:
    """Make a doorbell: the reader's end and the producer's end of a socket on which bytes go only one way.

    The producer rings with MSG_DONTWAIT and MSG_NOSIGNAL each time, so that nothing that a reader does to its end, or
    to the flags of anything that it holds, can make a ring wait or raise a signal.
    """
    reading, ringing = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ringing.shutdown(socket.SHUT_RD)
    for end in (reading, ringing):
        end.setblocking(False)
    return reading.detach(), ringing.detach()


def make_ack_page() -> tuple[int, mmap.mmap]:
    """Make an ack page: the file descriptor to send to its reader, and the producer's mapping of it."""
    fd = os.memfd_create("zbuf-ack", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, ACK_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, mmap.mmap(fd, ACK_BYTES)
    except BaseException:
        os.close(fd)
        raise


def map_ack_page(fd: int) -> mmap.mmap:
    """Map a reader's own ack page for writing; raises SegmentError if it is too short to be one."""
    if os.fstat(fd).st_size < ACK_BYTES:
        raise SegmentError(f"ack page of {os.fstat(fd).st_size} bytes: {ACK_BYTES} needed")
    return mmap.mmap(fd, ACK_BYTES)
