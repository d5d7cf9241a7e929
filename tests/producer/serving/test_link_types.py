"""Captures of several link types, and interfaces that appear, from a producer to readers and files."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cython import build_module
from support.processes import LIMIT_S
from support.project import TESTS

from zbuf.consumer import connect
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.savefile import Savefile
from zbuf.producer import Producer
from zbuf.shared.errors import Refused
from zbuf.shared.memory.pcapng import Interface

ETHERNET, RAW_IP, USER0 = 1, 101, 147
IPV4 = bytes([0x45, 0, 0, 28]) + bytes(5) + bytes([17]) + bytes(18)
"""A UDP datagram over IPv4, without a link layer."""
FRAME = bytes(12) + b"\x08\0" + IPV4
MIXED = [Interface("eth", ETHERNET), Interface("tun", RAW_IP), Interface("odd", USER0)]

pytestmark = pytest.mark.usefixtures("run_dir")


@pytest.fixture(scope="module")
def native_sources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Cython sources, compiled against the product's contract."""
    return build_module(TESTS / "support" / "native" / "native_sources.pyx", tmp_path_factory.mktemp("native"))


@pytest.fixture
def producer(producer_name: str) -> Iterator[Producer]:
    with Producer(producer_name, interfaces=MIXED, linger_s=0) as producer:
        yield producer


def append_all(producer: Producer) -> None:
    for interface, data in enumerate((FRAME, IPV4, b"whatever")):
        producer.append(data, interface=interface)


def rest_of(reader: Reader) -> list[tuple[int, int]]:
    """Interface and length of all packets that are stored."""
    reader.rotate()
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    return [(packet.interface, packet.caplen) for packet in buffer]


def test_each_interface_keeps_its_link_type_from_producer_to_reader(producer: Producer) -> None:
    with connect(producer.name) as reader:
        assert (reader.linktype, reader.linktypes) == (ETHERNET, (ETHERNET, RAW_IP, USER0))
        append_all(producer)
        assert rest_of(reader) == [(0, len(FRAME)), (1, len(IPV4)), (2, 8)]
        assert reader.stats().linktypes == [ETHERNET, RAW_IP, USER0]


def test_one_filter_is_compiled_for_each_link_type_and_refused_ones_are_told(
    producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zbuf"), connect(producer.name, filter="udp") as reader:
        append_all(producer)
        assert rest_of(reader) == [(0, len(FRAME)), (1, len(IPV4))]
        assert len(reader.warnings) == 1
        assert reader.warnings[0].startswith(f"no packets of odd (link type {USER0}): filter 'udp': ")
        assert caplog.messages == [f"{producer.name}: {reader.warnings[0]}"]
        ledger = reader.stats().descriptors[0]
        assert (ledger.received, ledger.filtered, ledger.received_bytes) == (3, 1, len(FRAME) + len(IPV4) + 8)


def test_a_filter_that_fits_none_of_the_link_types_is_refused(producer: Producer) -> None:
    with pytest.raises(Refused, match="filter 'no such word'"):
        connect(producer.name, filter="no such word")


def test_a_filter_that_is_set_later_is_compiled_for_each_too(producer: Producer) -> None:
    with connect(producer.name) as reader:
        reader.set_filter("less 30")
        append_all(producer)
        assert rest_of(reader) == [(1, len(IPV4)), (2, 8)]


# ---- interfaces that appear ----------------------------------------------------------------------------------------


def publish_scripted(native_sources: Any, producer: Producer, steps: list[Any]) -> None:
    """Pump a source of the tests' own, as publish() does a product's."""

    class Scripted:
        def __init__(self) -> None:
            self.native = native_sources.ScriptedSource(MIXED, steps)

        @property
        def interfaces(self) -> list[Interface]:
            found: list[Interface] = self.native.interfaces
            return found

        def passes(self, count: int) -> Iterator[Any]:
            del count
            yield self.native

    producer.publish(Scripted())


LATE = Interface("late", RAW_IP)
STEPS: list[Any] = [(FRAME, b"", 0, 0), LATE, (IPV4, b"", 3, 0), (FRAME, b"", 0, 0)]


def test_readers_learn_of_an_interface_that_appears_and_their_filters_are_compiled_for_it(
    native_sources: Any, producer: Producer
) -> None:
    with connect(producer.name, filter="udp") as reader:
        publish_scripted(native_sources, producer, STEPS)
        closing = threading.Thread(target=producer.close)
        closing.start()
        found = [(packet.interface, packet.caplen) for packet in reader]
        closing.join()
        assert found == [(0, len(FRAME)), (3, len(IPV4)), (0, len(FRAME))]
        assert [one.name for one in reader.interfaces] == ["eth", "tun", "odd", "late"]
        assert reader.end_reason == "closed"


def test_a_reader_that_comes_later_finds_it_in_the_prologue(native_sources: Any, producer: Producer) -> None:
    with connect(producer.name, join="ids"):
        publish_scripted(native_sources, producer, STEPS)
        producer.rotate()
        with connect(producer.name, join="ids") as joined, connect(producer.name) as alone:
            assert [one.name for one in alone.interfaces] == ["eth", "tun", "odd", "late"]
            assert [one.name for one in joined.interfaces][:3] == ["eth", "tun", "odd"]
        assert producer.stats().interfaces == ["eth", "tun", "odd", "late"]


SECTION, IDB, EPB = 0x0A0D0D0A, 1, 6


@pytest.mark.parametrize(
    ("begins", "wanted"),
    [
        ([0], [[SECTION, IDB, IDB, IDB, EPB, IDB, EPB, EPB]]),
        ([1], [[SECTION, IDB, IDB, IDB, IDB, EPB, EPB]]),
        ([0, 1], [[SECTION, IDB, IDB, IDB, EPB], [SECTION, IDB, IDB, IDB, IDB, EPB, EPB]]),
    ],
    ids=["one file", "a file from the second buffer on", "a file for each buffer"],
)
def test_a_file_describes_each_interface_once_before_its_packets_wherever_it_begins(
    native_sources: Any, producer: Producer, tmp_path: Path, begins: list[int], wanted: list[list[int]]
) -> None:
    files: list[Savefile] = []
    with connect(producer.name) as reader:
        publish_scripted(native_sources, producer, STEPS)
        closing = threading.Thread(target=producer.close)
        closing.start()
        for number, buffer in enumerate(reader.buffers()):
            if number in begins:
                files.append(Savefile(str(tmp_path / f"{number}"), reader))
            blocks = Blocks(buffer)
            for file in files[-1:]:
                file.take(blocks, 0, blocks.packets)
        closing.join()
        for file in files:
            file.close()
    assert [block_types(tmp_path / f"{number}") for number in begins] == wanted


def block_types(path: Path) -> list[int]:
    data, found, offset = path.read_bytes(), [], 0
    while offset < len(data):
        found.append(int.from_bytes(data[offset : offset + 4], "little"))
        offset += int.from_bytes(data[offset + 4 : offset + 8], "little")
    return found
