"""How messages go over the control socket, and file descriptors with them.

The socket is AF_UNIX, SOCK_SEQPACKET: one datagram is one message, a JSON object whose "type" says which one. An answer
that is larger than the socket takes comes in parts: a message says how many bytes it has, then datagrams bring those.
msgspec checks everything that arrives against the types of messages.py before anything else uses it.
"""

import array
import os
import socket
import time
from collections.abc import Iterator

import msgspec

from zbuf.shared.control.messages import Answer, Parts, Refusal, Request
from zbuf.shared.errors import ControlError
from zbuf.shared.names import printable

REQUEST_BYTES_MAX = 16 * 1024
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""Of an answer with all of its parts."""

_DATAGRAM_BYTES_MAX = 1024 * 1024
_PART_BYTES = 32 * 1024
_PARTS_S = 30.0
_FD_BYTES = 4

_encoder = msgspec.json.Encoder()
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answer_decoder: msgspec.json.Decoder[Answer | Parts] = msgspec.json.Decoder(Answer | Parts)


def encode(message: Request | Answer) -> bytes:
    """A message in the form in which it goes over the socket."""
    return _encoder.encode(message)


def encode_answer(answer: Answer) -> bytes:
    """An answer as it goes over the socket; a refusal where it is too large for any client."""
    data = encode(answer)
    if len(data) <= ANSWER_BYTES_MAX:
        return data
    return encode(Refusal(reason=f"the answer has {len(data)} bytes, and can't have more than {ANSWER_BYTES_MAX}"))


def parts_of(data: bytes) -> Iterator[bytes]:
    """The datagrams of an answer that does not go in one."""
    yield _encoder.encode(Parts(bytes=len(data)))
    for start in range(0, len(data), _PART_BYTES):
        yield data[start : start + _PART_BYTES]


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
        raise ControlError(f"malformed request: {printable(str(error))}") from None


def decode_answer(data: bytes) -> Answer | Parts:
    """The answer in a datagram; raises ControlError if it is not an answer."""
    try:
        return _answer_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(
            f"malformed answer: {printable(str(error))}: is this a zbuf producer, and of the same version?"
        ) from None


def receive_answer(connection: socket.socket, descriptors_max: int = 0) -> tuple[Answer, list[int]]:
    """Wait for an answer and the file descriptors that come with it, close-on-exec and the caller's to close.

    Raises:
        ControlError: the producer hung up, did not answer in time, or sent something else.
    """
    data, fds = _receive(connection, descriptors_max)
    try:
        answer = decode_answer(data)
        if isinstance(answer, Parts):
            answer = decode_answer(_receive_parts(connection, answer.bytes))
        if isinstance(answer, Parts):
            raise ControlError("malformed answer: parts in parts: is this a zbuf producer?")
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return answer, fds


def _receive_parts(connection: socket.socket, length: int) -> bytes:
    if length > ANSWER_BYTES_MAX:
        raise ControlError(f"answer of {length} bytes: {ANSWER_BYTES_MAX} are the most")
    end_s = time.monotonic() + _PARTS_S
    data = bytearray()
    while len(data) < length:
        if time.monotonic() > end_s:
            raise ControlError(f"the producer has not sent its whole answer within {_PARTS_S:g} s")
        data += _receive(connection, 0)[0]
    if len(data) > length:
        raise ControlError(f"answer of {len(data)} bytes that was to have {length}: is this a zbuf producer?")
    return bytes(data)


def _receive(connection: socket.socket, descriptors_max: int) -> tuple[bytes, list[int]]:
    """One datagram that is not empty, with its file descriptors.

    Raises:
        ControlError: none comes, or it does not fit.
    """
    try:
        data, fds, flags = _receive_datagram(connection, descriptors_max)
    except BlockingIOError:
        raise ControlError("the producer has not answered in time: is it stopped?") from None
    except ConnectionError:
        data, fds, flags = b"", [], 0
    if data and not flags & socket.MSG_TRUNC:
        return data, fds
    for fd in fds:
        os.close(fd)
    if not data:
        raise ControlError("the producer closed the connection")
    raise ControlError(f"answer of more than {_DATAGRAM_BYTES_MAX} bytes in one piece")


def _receive_datagram(connection: socket.socket, descriptors_max: int) -> tuple[bytes, list[int], int]:
    """One datagram with its file descriptors and flags; socket.recv_fds() of Python 3.11 ignores its flags."""
    room = socket.CMSG_SPACE(descriptors_max * _FD_BYTES) if descriptors_max else 0
    try:
        data, ancillary, flags, _ = connection.recvmsg(_DATAGRAM_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # reported once, before what the producer said last
        data, ancillary, flags, _ = connection.recvmsg(_DATAGRAM_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags
