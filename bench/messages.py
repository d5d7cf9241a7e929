"""Ways to get a small message from one Python process to another, each as its documentation shows.

A way has two ends, context managers that are entered in the processes that use them, the sender's first. The sender's
end is a function that sends a message; the receiver's waits for one, and returns its bytes, a copy that it may keep.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from zbuf.consumer.client import Wait
from zbuf.consumer.opening import connect
from zbuf.producer.service import Producer

MESSAGE_BYTES = 64

Send = Callable[[bytearray], object]
Receive = Callable[[], bytes]


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    name: str
    run_dir: str
    reading: Connection
    writing: Connection
    """The ends of a pipe, which can only be inherited."""

    @classmethod
    def make(cls, name: str, run_dir: str) -> "Place":
        """With a pipe: one way only, since that is faster than the two-way one, which is a pair of sockets."""
        return cls(name, run_dir, *multiprocessing.Pipe(duplex=False))


@dataclass(frozen=True)
class Way:
    """A way to send messages."""

    name: str
    module: str
    sender: Callable[[Place], AbstractContextManager[Send]]
    receiver: Callable[[Place], AbstractContextManager[Receive]]

    @property
    def missing(self) -> str:
        """Why it can't be used here, and what to do; empty where it can."""
        return "" if importlib.util.find_spec(self.module) else "is not installed: pip install zbuf[bench]"


# ---- zbuf -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _zbuf_sender(place: Place) -> Iterator[Send]:
    with Producer(place.name, run_dir=place.run_dir) as producer:
        yield producer.append


def _zbuf_receiver(wait: Wait) -> Callable[[Place], AbstractContextManager[Receive]]:
    @contextlib.contextmanager
    def receiver(place: Place) -> Iterator[Receive]:
        with connect(place.name, run_dir=place.run_dir, immediate=True, wait=wait) as reader:
            packets = iter(reader)
            yield lambda: bytes(next(packets))

    return receiver


# ---- multiprocessing.Pipe -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _pipe_sender(place: Place) -> Iterator[Send]:
    yield place.writing.send_bytes


@contextlib.contextmanager
def _blocking_pipe_receiver(place: Place) -> Iterator[Receive]:
    yield place.reading.recv_bytes


@contextlib.contextmanager
def _polling_pipe_receiver(place: Place) -> Iterator[Receive]:
    poll, receive = place.reading.poll, place.reading.recv_bytes

    def spin() -> bytes:
        while not poll():
            pass
        return receive()

    yield spin


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


# ---- iceoryx2 -------------------------------------------------------------------------------------------------------


class _Message(ctypes.Structure):
    _fields_ = (("data", ctypes.c_uint8 * MESSAGE_BYTES),)


_ICEORYX2_QUEUE = 1024
"""Messages that a subscriber may be late with; by default it loses the third."""


class _Iceoryx2:
    """A node with a publish-subscribe service, and an event service to wake subscribers with."""

    def __init__(self, place: Place) -> None:
        iceoryx2 = importlib.import_module("iceoryx2")
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        config = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(place.run_dir)
        self._node = iceoryx2.NodeBuilder.new().config(config).create(iceoryx2.ServiceType.Ipc)
        self._name = iceoryx2.ServiceName.new(place.name)
        service = self._node.service_builder(self._name).publish_subscribe(_Message)
        self.service = service.subscriber_max_buffer_size(_ICEORYX2_QUEUE).open_or_create()

    @property
    def event(self) -> Any:
        """Of the same name."""
        return self._node.service_builder(self._name).event().open_or_create()

    def subscriber(self) -> Any:
        """With a queue that loses nothing."""
        return self.service.subscriber_builder().buffer_size(_ICEORYX2_QUEUE).create()


def _iceoryx2_sender(*, notify: bool) -> Callable[[Place], AbstractContextManager[Send]]:
    @contextlib.contextmanager
    def sender(place: Place) -> Iterator[Send]:
        own = _Iceoryx2(place)
        publisher = own.service.publisher_builder().max_loaned_samples(2).create()
        wake = own.event.notifier_builder().create().notify if notify else lambda: None
        loaned = publisher.loan_uninit()  # ahead of the message, so that this is no part of its way

        def send(message: bytearray) -> None:
            nonlocal loaned
            loaned.write_payload(_Message.from_buffer(message)).send()
            wake()
            loaned = publisher.loan_uninit()

        yield send

    return sender


@contextlib.contextmanager
def _spinning_iceoryx2_receiver(place: Place) -> Iterator[Receive]:
    receive = _Iceoryx2(place).subscriber().receive

    def spin() -> bytes:
        while (sample := receive()) is None:
            pass
        return bytes(sample.payload().contents)

    yield spin


@contextlib.contextmanager
def _blocking_iceoryx2_receiver(place: Place) -> Iterator[Receive]:
    own = _Iceoryx2(place)
    subscriber, listener = own.subscriber(), own.event.listener_builder().create()

    def wait() -> bytes:
        while (sample := subscriber.receive()) is None:
            listener.blocking_wait()
        return bytes(sample.payload().contents)

    yield wait


# ---- all of them ----------------------------------------------------------------------------------------------------

ZBUF_SPINNING = "zbuf spinning"
ZBUF_SLEEPING = "zbuf sleeping"
PIPE_BLOCKING = "Pipe blocking"

WAYS = {
    way.name: way
    for way in (
        Way(ZBUF_SPINNING, "zbuf", _zbuf_sender, _zbuf_receiver("spin")),
        Way(ZBUF_SLEEPING, "zbuf", _zbuf_sender, _zbuf_receiver("sleep")),
        Way(PIPE_BLOCKING, "multiprocessing", _pipe_sender, _blocking_pipe_receiver),
        Way("Pipe polling", "multiprocessing", _pipe_sender, _polling_pipe_receiver),
        Way("pyzmq blocking", "zmq", _zmq_sender, _blocking_zmq_receiver),
        Way("pyzmq spinning", "zmq", _zmq_sender, _spinning_zmq_receiver),
        Way("iceoryx2 blocking", "iceoryx2", _iceoryx2_sender(notify=True), _blocking_iceoryx2_receiver),
        Way("iceoryx2 spinning", "iceoryx2", _iceoryx2_sender(notify=False), _spinning_iceoryx2_receiver),
    )
}
