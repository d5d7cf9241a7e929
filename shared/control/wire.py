"""How messages go over the control socket, and file descriptors with them.

The socket is AF_UNIX, SOCK_SEQPACKET: one datagram is one message, a JSON object whose "type" says which one. msgspec
checks everything that arrives against the types of messages.py before anything else uses it.
"""

import array
import os
import socket

import msgspec

from zbuf.shared.control.messages import Answer, Request
from zbuf.shared.errors import ControlError

REQUEST_BYTES_MAX = 16 * 1024
ANSWER_BYTES_MAX = 1024 * 1024

_FD_BYTES = 4

_encoder = msgspec.json.Encoder()
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """A message in the form in which it goes over the socket."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """The request in a datagram.

    Raises:
        ControlError: it is too large, or not a request; the message says what is wrong with it.
    """
    if len(data) > REQUEST_BYTES_MAX:
        raise ControlError(f"request of more than {REQUEST_BYTES_MAX} bytes")
    try:
        return _request_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"malformed request: {error}") from None


def decode_answer(data: bytes) -> Answer:
    """The answer in a datagram; raises ControlError if it is not an answer."""
    try:
        return _answer_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"malformed answer: {error}: is this a zbuf producer, and of the same version?") from None


def receive_answer(connection: socket.socket, descriptors_max: int = 0) -> tuple[Answer, list[int]]:
    """Wait for an answer and the file descriptors that come with it, close-on-exec and the caller's to close.

    Raises:
        ControlError: the producer hung up, did not answer in time, or sent something else.
    """
    try:
        data, fds, flags = _receive(connection, descriptors_max)
    except BlockingIOError:
        raise ControlError("the producer has not answered in time: is it stopped?") from None
    except ConnectionError:
        data, fds, flags = b"", [], 0
    try:
        if not data:
            raise ControlError("the producer closed the connection")
        if flags & socket.MSG_TRUNC:
            raise ControlError(f"answer of more than {ANSWER_BYTES_MAX} bytes")
        return decode_answer(data), fds
    except ControlError:
        for fd in fds:
            os.close(fd)
        raise


def _receive(connection: socket.socket, descriptors_max: int) -> tuple[bytes, list[int], int]:
    """One datagram with its file descriptors and flags; socket.recv_fds() of Python 3.11 ignores its flags."""
    room = socket.CMSG_SPACE(descriptors_max * _FD_BYTES) if descriptors_max else 0
    try:
        data, ancillary, flags, _ = connection.recvmsg(ANSWER_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # reported once, before what the producer said last
        data, ancillary, flags, _ = connection.recvmsg(ANSWER_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags
