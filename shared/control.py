"""The control socket: messages between a producer and its clients, and how file descriptors go with them.

The socket is AF_UNIX, SOCK_SEQPACKET: one datagram is one message, a JSON object whose "type" says which. A client
sends a request and gets one answer to it, in turn. A connection that has had its Connect answered is one reader's
life: when it closes, however that comes about, the producer takes the buffers back.

Whatever arrives is checked by msgspec against the types here, before anybody looks at it.
"""

import array
import os
import socket
from typing import Annotated, Literal

import msgspec

from zbuf.shared.errors import ControlError
from zbuf.shared.layout import ABI, MAX_CAPLEN
from zbuf.shared.rundir import NAME_LENGTH_MAX

REQUEST_BYTES_MAX = 16 * 1024
ANSWER_BYTES_MAX = 1024 * 1024
FILTER_LENGTH_MAX = 4 * 1024
DEFAULT_TIMEOUT_MS = 100
TIMEOUT_MS_MAX = 3_600_000
FILTER_SHOWN_LENGTH = 200

Direction = Literal["in", "out", "inout"]
InterfaceState = Literal["up", "down", "lost"]
_Filter = Annotated[str, msgspec.Meta(max_length=FILTER_LENGTH_MAX)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=str.lower, forbid_unknown_fields=True):
    """One datagram."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a descriptor is to be; the ioctls of bpf(4) in one piece."""

    filter: _Filter = ""
    """A pcap-filter(7) expression; empty for everything."""
    snaplen: Annotated[int, msgspec.Meta(ge=1, le=MAX_CAPLEN)] = MAX_CAPLEN
    """Bytes kept of each packet."""
    buffer_bytes: int | None = None
    """The size of each of the two buffers, header included; None for the producer's own choice."""
    immediate: bool = False
    """Assign each packet at once, where a buffer is free."""
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=TIMEOUT_MS_MAX)] = DEFAULT_TIMEOUT_MS
    """Assign a buffer that is not full after this time; 0 for never."""
    direction: Direction = "inout"
    """Which packets, of those whose direction is known."""


class Connect(_Message, frozen=True):
    """Open a descriptor, or join one: the first request of a reader."""

    abi: int = ABI
    join: Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LENGTH_MAX)] | None = None
    """The name of a descriptor to share with others who say the same; None for one of one's own."""
    settings: Settings | None = None
    """None to take a joined descriptor as it is, or the defaults for a new one."""


class Stats(_Message, frozen=True):
    """Ask for Statistics; a connection needs no descriptor for it."""


class Rotate(_Message, frozen=True):
    """Assign what is stored though it is not full."""


class SetFilter(_Message, frozen=True):
    """Change the filter of the descriptor, flushing it or not."""

    filter: _Filter
    flush: bool = True


class Flush(_Message, frozen=True):
    """Discard what is stored, and begin the ledger anew."""


class Leave(_Message, frozen=True):
    """Give everything back; the answer says that it is done."""


Request = Connect | Stats | Rotate | SetFilter | Flush | Leave


class Connected(_Message, frozen=True):
    """The answer to Connect; with it come three file descriptors: the segment, the ack page, the doorbell."""

    producer: str
    descriptor: int
    reader: int
    sequence: int
    """The number of the first buffer that this reader will be assigned."""
    linktype: int
    snaplen: int
    filter: str
    interfaces: list[str]
    offered: int = 0
    """Packets that the producer's source had given before this reader was let in."""


class Done(_Message, frozen=True):
    """The request was carried out."""

    changed: bool = True
    """Of a Rotate: whether there was something to assign, and a buffer free for what comes next."""


class Refusal(_Message, frozen=True):
    """The request was not carried out; the connection goes on."""

    reason: str


class Ledger(msgspec.Struct, frozen=True):
    """A descriptor's counts of packets, 64-bit.

    At every instant received = filtered + accepted, and accepted = delivered + dropped + abandoned + buffered.
    """

    received: int = 0
    """Given to the descriptor."""
    filtered: int = 0
    """Refused by its filter."""
    accepted: int = 0
    """Passed by its filter."""
    delivered: int = 0
    """Acknowledged by its readers."""
    dropped: int = 0
    """Lost, since no buffer was free."""
    abandoned: int = 0
    """Assigned to readers that left, all of them, without acknowledging."""
    buffered: int = 0
    """Not acknowledged yet."""
    truncated: int = 0
    """Cut short to the snaplen or to the size of a buffer."""


class ReaderStatistics(msgspec.Struct, frozen=True):
    """One reader of a descriptor."""

    reader: int
    pid: int
    delivered: int
    """Packets that it acknowledged."""
    holding: int
    """Buffers that it has not given back: 0, 1 or 2."""
    user: int = 0
    """The user id that it connected with."""
    stalls: int = 0
    """Times that no buffer was free since this reader had not given it back."""
    stalled: int = 0
    """Packets that its descriptor dropped in those times."""


class DescriptorStatistics(Ledger, frozen=True, kw_only=True):
    """One descriptor, its ledger and its readers."""

    descriptor: int
    join: str | None
    settings: Settings
    """As asked for; a filter of more than FILTER_SHOWN_LENGTH characters is cut short here."""
    buffered_bytes: int = 0
    """Of both buffers, what is appended or assigned, and not acknowledged yet."""
    bells: int
    """Times that a sleeping reader was woken."""
    open: bool
    """Whether it has readers still."""
    readers: list[ReaderStatistics]


class InterfaceStatistics(msgspec.Struct, frozen=True):
    """A live interface, in the kernel's words; its counts begin when it was opened, and go on when it was lost."""

    interface: str
    engine: str
    """What reads it: pcap or scapy."""
    state: InterfaceState
    """"lost": it failed or went away, and is opened again as soon as it returns."""
    received: int
    """Passed by the capture's filter, dropped ones included."""
    taken: int
    """Read from the kernel, and offered to the descriptors."""
    dropped_by_kernel: int
    """Lost, since the kernel's buffer was full: `--kernel-buffer` sets its size."""
    dropped_by_interface: int
    """Lost by the interface or its driver, as far as those say."""
    lost: int
    """Times that it failed or went away."""


class Statistics(_Message, frozen=True):
    """The answer to Stats."""

    producer: str
    pid: int
    epoch: int
    uptime_s: float
    linktype: int
    interfaces: list[str]
    offered: int
    """Packets that the source gave."""
    waits: int
    """Times that a lossless producer slept for its readers."""
    descriptors: list[DescriptorStatistics]
    closed: Ledger
    """The sums over the descriptors whose readers have all left."""
    live: list[InterfaceStatistics] = []
    """The interfaces of a live capture."""
    evicted: int = 0
    """Readers that were taken off, since they held up the others of their descriptor."""
    refused: int = 0
    """Connections that were refused."""


Answer = Connected | Done | Refusal | Statistics

_FD_BYTES = 4

_encoder = msgspec.json.Encoder()
_request_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """A message as it goes over the socket."""
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
    """The answer in a datagram; raises ControlError where it is none."""
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
    """One datagram, and what came with it; socket.recv_fds() of Python 3.11 forgets its flags."""
    room = socket.CMSG_SPACE(descriptors_max * _FD_BYTES) if descriptors_max else 0
    try:
        data, ancillary, flags, _ = connection.recvmsg(ANSWER_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # told once, and ahead of what the producer said before it hung up
        data, ancillary, flags, _ = connection.recvmsg(ANSWER_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, list(fds), flags
