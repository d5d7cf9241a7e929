"""Ways to get messages from one Python process to another, each as its documentation shows. None loses any.

A way has two ends, context managers that are entered in the processes that use them, the sender's first. The sender's
end is a function that sends a message; the receiver's waits for one, and returns its bytes, a copy that it may keep.
Where a message holds several packets, both handle a list of them.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import importlib.util
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, Literal, TypeVar

from zbuf.consumer.reading.opening import connect
from zbuf.consumer.reading.options import Wait
from zbuf.producer.producer import Producer

MESSAGE_BYTES = 64

_CONTEXT = multiprocessing.get_context("fork")  # what is inherited is there before either has what a fork would harm
_PATIENCE_S = 60.0

Send = Callable[[Any], object]
Receive = Callable[[], Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    name: str
    run_dir: str
    size: int = MESSAGE_BYTES
    """Of each message, in bytes."""
    inherited: Any = None
    """The way's channel, where it has one that can only be inherited."""


@dataclass(frozen=True)
class Way:
    """A way to send messages."""

    name: str
    module: str
    sender: Callable[[Place], AbstractContextManager[Send]]
    receiver: Callable[[Place], AbstractContextManager[Receive]]
    channel: Callable[[], Any] = lambda: None
    """Makes what both processes inherit."""
    batch: int = 1
    """Packets in a message."""

    @property
    def missing(self) -> str:
        """Why it can't be used here, and what to do; empty where it can."""
        return "" if importlib.util.find_spec(self.module) else "is not installed: pip install zbuf[bench]"

    def talk(
        self,
        name: str,
        run_dir: str,
        size: int,
        send_all: Callable[[Send], None],
        receive_all: Callable[[Receive], Result],
    ) -> Result:
        """Be the receiver, and start the sender; both begin together, and nobody goes before all is received."""
        place, barrier = Place(name, run_dir, size, self.channel()), _CONTEXT.Barrier(2, timeout=_PATIENCE_S)
        sender = _CONTEXT.Process(target=self._send, args=(place, barrier, send_all), daemon=True)
        sender.start()
        barrier.wait()  # the sender's end is there
        with self.receiver(place) as receive:
            barrier.wait()  # the receiver's is there, too
            result = receive_all(receive)
        barrier.wait()
        sender.join()
        return result

    def _send(self, place: Place, barrier: Barrier, send_all: Callable[[Send], None]) -> None:
        with self.sender(place) as send:
            barrier.wait()
            barrier.wait()
            send_all(send)
            barrier.wait()


# ---- zbuf -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _zbuf_sender(place: Place) -> Iterator[Send]:
    with Producer(place.name, run_dir=place.run_dir, lossless=True) as producer:
        yield producer.append


def _zbuf_receiver(wait: Wait) -> Callable[[Place], AbstractContextManager[Receive]]:
    @contextlib.contextmanager
    def receiver(place: Place) -> Iterator[Receive]:
        with connect(place.name, run_dir=place.run_dir, immediate=True, wait=wait) as reader:
            packets = iter(reader)
            yield lambda: bytes(next(packets))

    return receiver


# ---- the standard library -------------------------------------------------------------------------------------------


def _pipe() -> tuple[Connection, Connection]:
    """One way only, since that is faster than the two-way one, which is a pair of sockets."""
    return multiprocessing.Pipe(duplex=False)


@contextlib.contextmanager
def _pipe_sender(place: Place) -> Iterator[Send]:
    yield place.inherited[1].send_bytes


@contextlib.contextmanager
def _blocking_pipe_receiver(place: Place) -> Iterator[Receive]:
    yield place.inherited[0].recv_bytes


@contextlib.contextmanager
def _polling_pipe_receiver(place: Place) -> Iterator[Receive]:
    poll, receive = place.inherited[0].poll, place.inherited[0].recv_bytes

    def spin() -> Any:
        while not poll():
            pass
        return receive()

    yield spin


@contextlib.contextmanager
def _pickling_pipe_sender(place: Place) -> Iterator[Send]:
    yield place.inherited[1].send


@contextlib.contextmanager
def _pickling_pipe_receiver(place: Place) -> Iterator[Receive]:
    yield place.inherited[0].recv


@contextlib.contextmanager
def _queue_sender(place: Place) -> Iterator[Send]:
    yield place.inherited.put


@contextlib.contextmanager
def _queue_receiver(place: Place) -> Iterator[Receive]:
    yield place.inherited.get


def _sockets(kind: socket.SocketKind) -> Callable[[], tuple[socket.socket, socket.socket]]:
    return lambda: socket.socketpair(socket.AF_UNIX, kind)


@contextlib.contextmanager
def _socket_sender(place: Place) -> Iterator[Send]:
    yield place.inherited[1].send


@contextlib.contextmanager
def _socket_receiver(place: Place) -> Iterator[Receive]:
    receive, size = place.inherited[0].recv, place.size
    yield lambda: receive(size)


# ---- pyzmq ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _zmq_socket(kind: Literal["PUSH", "PULL"]) -> Iterator[Any]:
    zmq = importlib.import_module("zmq")
    with zmq.Context() as context, context.socket(getattr(zmq, kind)) as socket:
        yield socket


@contextlib.contextmanager
def _zmq_sender(place: Place) -> Iterator[Send]:
    with _zmq_socket("PUSH") as socket:
        socket.bind(f"ipc://{place.run_dir}/zmq")
        yield socket.send


@contextlib.contextmanager
def _blocking_zmq_receiver(place: Place) -> Iterator[Receive]:
    with _zmq_socket("PULL") as socket:
        socket.connect(f"ipc://{place.run_dir}/zmq")
        yield socket.recv


@contextlib.contextmanager
def _spinning_zmq_receiver(place: Place) -> Iterator[Receive]:
    zmq = importlib.import_module("zmq")
    with _zmq_socket("PULL") as socket:
        socket.connect(f"ipc://{place.run_dir}/zmq")
        receive, flag, nothing = socket.recv, zmq.NOBLOCK, zmq.Again

        def spin() -> bytes:
            while True:
                try:
                    return bytes(receive(flag))
                except nothing:
                    pass

        yield spin


@contextlib.contextmanager
def _multipart_zmq_sender(place: Place) -> Iterator[Send]:
    with _zmq_socket("PUSH") as socket:
        socket.bind(f"ipc://{place.run_dir}/zmq")
        yield socket.send_multipart


@contextlib.contextmanager
def _multipart_zmq_receiver(place: Place) -> Iterator[Receive]:
    with _zmq_socket("PULL") as socket:
        socket.connect(f"ipc://{place.run_dir}/zmq")
        yield socket.recv_multipart


# ---- iceoryx2 -------------------------------------------------------------------------------------------------------

_ICEORYX2_QUEUE = 1024
"""Messages that a subscriber may be late with; then the publisher waits, where by default it would lose the third."""


class _Iceoryx2:
    """A node with a publish-subscribe service, and an event service to wake subscribers with."""

    def __init__(self, place: Place) -> None:
        iceoryx2 = importlib.import_module("iceoryx2")
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        config = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(place.run_dir)
        self._node = iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)
        self._name = iceoryx2.ServiceName.new(place.name)
        self._wait = iceoryx2.BackpressureStrategy.RetryUntilDelivered
        message = type("Message", (ctypes.Structure,), {"_fields_": (("data", ctypes.c_uint8 * place.size),)})
        service = self._node.service_builder(self._name).publish_subscribe(message)
        service = service.subscriber_max_buffer_size(_ICEORYX2_QUEUE).enable_safe_overflow(False)
        self.service = service.open_or_create()

    @property
    def event(self) -> Any:
        """Of the same name."""
        return self._node.service_builder(self._name).event().open_or_create()

    def publisher(self) -> Any:
        """One that may have a message at hand while it sends another."""
        return self.service.publisher_builder().max_loaned_samples(2).backpressure_strategy(self._wait).create()

    def subscriber(self) -> Any:
        """With a queue that loses nothing."""
        return self.service.subscriber_builder().buffer_size(_ICEORYX2_QUEUE).create()


def _iceoryx2_sender(*, notify: bool) -> Callable[[Place], AbstractContextManager[Send]]:
    @contextlib.contextmanager
    def sender(place: Place) -> Iterator[Send]:
        own, size = _Iceoryx2(place), place.size
        publisher = own.publisher()
        wake = own.event.notifier_builder().create().notify if notify else lambda: None
        loaned = publisher.loan_uninit()  # ahead of the message, so that this is no part of its way

        def send(message: bytes) -> None:
            nonlocal loaned
            ctypes.memmove(loaned.payload_ptr, message, size)  # a copy less than write_payload()
            loaned.assume_init().send()
            wake()
            loaned = publisher.loan_uninit()

        yield send

    return sender


@contextlib.contextmanager
def _spinning_iceoryx2_receiver(place: Place) -> Iterator[Receive]:
    receive, size = _Iceoryx2(place).subscriber().receive, place.size

    def spin() -> bytes:
        while (sample := receive()) is None:
            pass
        return ctypes.string_at(sample.payload_ptr, size)  # half the time that payload().contents takes

    yield spin


@contextlib.contextmanager
def _blocking_iceoryx2_receiver(place: Place) -> Iterator[Receive]:
    own, size = _Iceoryx2(place), place.size
    subscriber, listener = own.subscriber(), own.event.listener_builder().create()

    def wait() -> bytes:
        while (sample := subscriber.receive()) is None:
            listener.blocking_wait()
        return ctypes.string_at(sample.payload_ptr, size)

    yield wait


# ---- all of them ----------------------------------------------------------------------------------------------------

ZBUF_SPINNING = "zbuf spinning"
ZBUF_SLEEPING = "zbuf sleeping"
PIPE_BLOCKING = "Pipe blocking"

_BATCH = 64

_ZBUF = Way(ZBUF_SLEEPING, "zbuf", _zbuf_sender, _zbuf_receiver("sleep"))
_PIPE = Way(PIPE_BLOCKING, "multiprocessing", _pipe_sender, _blocking_pipe_receiver, _pipe)
_ZMQ = Way("pyzmq blocking", "zmq", _zmq_sender, _blocking_zmq_receiver)
_ICEORYX2 = Way("iceoryx2 spinning", "iceoryx2", _iceoryx2_sender(notify=False), _spinning_iceoryx2_receiver)

WAYS = {
    way.name: way
    for way in (
        Way(ZBUF_SPINNING, "zbuf", _zbuf_sender, _zbuf_receiver("spin")),
        _ZBUF,
        _PIPE,
        Way("Pipe polling", "multiprocessing", _pipe_sender, _polling_pipe_receiver, _pipe),
        _ZMQ,
        Way("pyzmq spinning", "zmq", _zmq_sender, _spinning_zmq_receiver),
        Way("iceoryx2 blocking", "iceoryx2", _iceoryx2_sender(notify=True), _blocking_iceoryx2_receiver),
        _ICEORYX2,
    )
}
"""For one message now and then."""

ZBUF_APPEND = "zbuf append()"

STREAMS = {
    way.name: way
    for way in (
        dataclasses.replace(_ZBUF, name=ZBUF_APPEND),
        dataclasses.replace(_PIPE, name="Pipe"),
        Way("Queue", "multiprocessing", _queue_sender, _queue_receiver, _CONTEXT.Queue),
        dataclasses.replace(_ZMQ, name="pyzmq PUSH, PULL"),
        Way("SOCK_DGRAM", "socket", _socket_sender, _socket_receiver, _sockets(socket.SOCK_DGRAM)),
        Way("SOCK_SEQPACKET", "socket", _socket_sender, _socket_receiver, _sockets(socket.SOCK_SEQPACKET)),
        dataclasses.replace(_ICEORYX2, name="iceoryx2"),
        Way("Pipe, 64 pickled", "multiprocessing", _pickling_pipe_sender, _pickling_pipe_receiver, _pipe, _BATCH),
        Way("pyzmq, 64 multipart", "zmq", _multipart_zmq_sender, _multipart_zmq_receiver, batch=_BATCH),
    )
}
"""For many messages, one after the other."""
