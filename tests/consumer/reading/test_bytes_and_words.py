"""Packets by index and slice, what objects say of themselves, and arguments that do what is meant."""

import asyncio
import time
from typing import Any

import numpy
import pytest

from zbuf import (
    Batch,
    FileSource,
    Packet,
    PacketCopy,
    Producer,
    RawPacket,
    ScapySocket,
    StaleBuffer,
    connect,
    connect_async,
    producers,
)
from zbuf.consumer import Connection

pytestmark = pytest.mark.usefixtures("run_dir")

DATA = bytes(range(200, 254)) + b"end"
CUTS = [
    slice(12, 14),
    slice(None),
    slice(-3, None),
    slice(50, 500),
    slice(9, 3),
    slice(None, None, -1),
    slice(1, 40, 7),
]


def only_packet(reader: Any) -> Packet:
    packet: Packet = next(iter(reader.next_buffer(timeout=10)))
    return packet


def test_a_packet_and_its_copy_are_cut_as_bytes_are(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        producer.append(DATA, time_ns=7, wirelen=1500)
        producer.rotate()
        packet = only_packet(reader)
        for one in (packet, packet.copy()):
            assert [one[cut] for cut in CUTS] == [DATA[cut] for cut in CUTS]
            assert [one[at] for at in (0, -1, numpy.uint8(5), -len(DATA))] == [DATA[at] for at in (0, -1, 5, 0)]
            assert list(one) == list(DATA)  # type: ignore[call-overload]
            for outside in (len(DATA), -len(DATA) - 1):
                with pytest.raises(IndexError):
                    one[outside]
            with pytest.raises(TypeError):
                one["x"]  # type: ignore[call-overload]
        kept = packet[3:9]
        reader.next_buffer(timeout=0)
        assert kept == DATA[3:9]  # a slice holds no buffer
        for key in (0, slice(3)):
            with pytest.raises(StaleBuffer):
                packet[key]


def test_every_object_says_what_it_is(producer_name: str, numbered_pcap: Any) -> None:
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        producer.append(DATA, time_ns=7, wirelen=1500)
        producer.rotate()
        buffer = reader.next_buffer(timeout=10)
        assert buffer is not None
        packet = next(iter(buffer))
        assert repr(packet) == "<zbuf packet: 57 of 1500 bytes at 7 ns>"
        assert repr(packet.copy()) == "<zbuf packet copy: 57 of 1500 bytes at 7 ns>"
        assert repr(buffer) == "<zbuf buffer 0: 1 packets, 92 bytes>"
        assert repr(Batch(buffer)) == "<zbuf batch of buffer 0: 1 packets>"
        assert repr(reader) == f"<zbuf Reader of {producer_name!r}: descriptor 1, open>"
        assert repr(producer) == f"<zbuf producer {producer_name!r}: 1 packets, 1 readers>"
        assert repr(RawPacket(b"abc", 5)) == "<zbuf raw packet: 3 of 3 bytes at 5 ns>"
        assert repr(FileSource(numbered_pcap)) == f"<zbuf file source of {numbered_pcap}>"
        with Connection(producer_name) as connection:
            assert repr(connection) == f"<zbuf connection to {producer_name!r}: open>"
        assert repr(connect_async(producer_name)).startswith(f"<zbuf connection to {producer_name!r}: await it")
        reader.next_buffer(timeout=0)
        assert repr(packet) == "<zbuf packet: stale>"
        reader.close()
        assert repr(reader) == f"<zbuf Reader of {producer_name!r}: descriptor 1, left>"
        assert repr(ScapySocket(reader)) == f"<zbuf scapy socket on {reader!r}>"
        with connect(producer_name, reconnect=True) as again:
            assert repr(again) == f"<zbuf ReconnectingReader of {producer_name!r}: descriptor {again.descriptor}, open>"
    assert repr(producer) == f"<zbuf producer {producer_name!r}: closed>"
    assert producers() == []


def test_a_copy_is_equal_to_another_of_the_same_bytes() -> None:
    one, other = (PacketCopy(b"abc", 1, 3, 0, 0, "in") for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)


def test_a_timeout_of_less_than_a_millisecond_hands_packets_over(producer_name: str) -> None:
    with Producer(producer_name) as producer, connect(producer_name, timeout_ms=0.5, filter=None) as reader:
        assert producer.stats().descriptors[0].settings.timeout_ms == 0.5
        for number in range(3):
            producer.append(DATA, time_ns=number)
            assert only_packet(reader).time_ns == number


def test_asyncio_waits_no_longer_than_it_is_told_and_loses_nothing(producer_name: str) -> None:
    async def read(producer: Producer) -> list[int]:
        async with connect_async(producer_name, timeout_ms=0) as reader:
            started = time.monotonic()
            assert await reader.next_buffer(timeout=0.1) is None
            assert time.monotonic() - started >= 0.1
            assert await reader.next_buffer(timeout=0) is None
            assert not reader.finished
            with pytest.raises(TypeError, match=r"^timeout must be a number, not str: '1'"):
                await reader.next_buffer("1")  # type: ignore[arg-type]
            producer.append(DATA, time_ns=5)
            producer.rotate()
            buffer = await reader.next_buffer(timeout=10)
            assert buffer is not None
            return [packet.time_ns for packet in buffer]

    with Producer(producer_name) as producer:
        assert asyncio.run(read(producer)) == [5]


def test_a_wrong_type_of_what_a_reader_is_asked_is_a_type_error(producer_name: str) -> None:
    with Producer(producer_name), connect(producer_name) as reader, connect(producer_name, reconnect=True) as again:
        for one in (reader, again):
            with pytest.raises(TypeError, match=r"^timeout must be a number.*, not str: '1'"):
                one.next_buffer("1")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"^expression must be a str or None, not int: 5"):
                one.set_filter(5)  # type: ignore[arg-type]
            one.set_filter(None)
