"""What a producer sends to a new reader: three file descriptors, which a hostile producer may have made anything."""

import fcntl
import os
import socket
import stat

from zbuf.shared.errors import SegmentError


def check_files(segment_fd: int, ack_fd: int, doorbell: int) -> None:
    """Check that a segment, an ack page and a doorbell are files of the kinds that they must be.

    Raises:
        SegmentError: one of them is something else; the message says which.
    """
    _check_regular("segment", segment_fd, {os.O_RDONLY, os.O_RDWR}, "that can be read")
    _check_regular("ack page", ack_fd, {os.O_RDWR}, "that can be read and written")
    if not _is_stream(doorbell):
        raise SegmentError("the doorbell is not a Unix stream socket: its producer is broken")


def _check_regular(what: str, fd: int, modes: set[int], which: str) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    is_open = not flags & os.O_PATH and flags & os.O_ACCMODE in modes
    if not is_open or not stat.S_ISREG(os.fstat(fd).st_mode):
        raise SegmentError(f"the {what} is not shared memory {which}: its producer is broken")


def _is_stream(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        return False
    with socket.socket(fileno=os.dup(fd)) as found:
        return (found.family, found.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
