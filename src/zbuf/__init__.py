"""zbuf: zero-copy BPF in userland, a multiprocess shared-memory capture service.

::

    from zbuf import connect

    with connect("lab", filter="tcp port 80") as reader:
        for packet in reader:
            print(packet.time_ns, packet.caplen, bytes(packet))

:mod:`zbuf.producer` takes packets in and appends them to shared buffers, :mod:`zbuf.consumer` reads them in other
processes, :mod:`zbuf.errors` has what both raise. What is imported from here comes from one of these three, at its
first use: a program that only reads loads nothing of the producer.
"""

from typing import TYPE_CHECKING, Any

from zbuf.shared.lazy import lazily

if TYPE_CHECKING:
    from zbuf.consumer import INDEX_DTYPE as INDEX_DTYPE
    from zbuf.consumer import AsyncReader as AsyncReader
    from zbuf.consumer import Batch as Batch
    from zbuf.consumer import Buffer as Buffer
    from zbuf.consumer import Connection as Connection
    from zbuf.consumer import Packet as Packet
    from zbuf.consumer import PacketCopy as PacketCopy
    from zbuf.consumer import Reader as Reader
    from zbuf.consumer import ReconnectingReader as ReconnectingReader
    from zbuf.consumer import ScapySocket as ScapySocket
    from zbuf.consumer import connect as connect
    from zbuf.consumer import connect_async as connect_async
    from zbuf.consumer import producers as producers
    from zbuf.errors import CaptureFileError as CaptureFileError
    from zbuf.errors import ConfigurationError as ConfigurationError
    from zbuf.errors import ControlError as ControlError
    from zbuf.errors import CorruptBuffer as CorruptBuffer
    from zbuf.errors import FilterError as FilterError
    from zbuf.errors import InterfaceError as InterfaceError
    from zbuf.errors import ProducerExists as ProducerExists
    from zbuf.errors import ProducerNotFound as ProducerNotFound
    from zbuf.errors import Refused as Refused
    from zbuf.errors import RunDirectoryError as RunDirectoryError
    from zbuf.errors import SegmentError as SegmentError
    from zbuf.errors import StaleBuffer as StaleBuffer
    from zbuf.errors import ValueRefused as ValueRefused
    from zbuf.errors import ZbufError as ZbufError
    from zbuf.producer import FileSource as FileSource
    from zbuf.producer import Interface as Interface
    from zbuf.producer import Limits as Limits
    from zbuf.producer import LiveOptions as LiveOptions
    from zbuf.producer import LiveSource as LiveSource
    from zbuf.producer import Producer as Producer
    from zbuf.producer import RawPacket as RawPacket
    from zbuf.producer import Replay as Replay
    from zbuf.producer import Rule as Rule
    from zbuf.producer import ScapySource as ScapySource
    from zbuf.producer import Schedule as Schedule
    from zbuf.producer import replay as replay

    __version__: str

_READING = """INDEX_DTYPE AsyncReader Batch Buffer Connection Packet PacketCopy Reader ReconnectingReader ScapySocket
    connect connect_async producers"""
_ERRORS = """CaptureFileError ConfigurationError ControlError CorruptBuffer FilterError InterfaceError ProducerExists
    ProducerNotFound Refused RunDirectoryError SegmentError StaleBuffer ValueRefused ZbufError"""
_PRODUCING = """FileSource Interface Limits LiveOptions LiveSource Producer RawPacket Replay Rule ScapySource Schedule
    replay"""
_HOMES = {"consumer": _READING.split(), "errors": _ERRORS.split(), "producer": _PRODUCING.split()}

__all__ = sorted(name for names in _HOMES.values() for name in names)

_find, _names = lazily("zbuf", _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("zbuf")
    return _find(name)


def __dir__() -> list[str]:
    return [*_names(), "__version__"]
