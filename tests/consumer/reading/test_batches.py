"""Buffers as NumPy sees them, copies of packets, and interrupted waits."""

import pickle
import signal
import threading
from collections.abc import Iterator

import numpy
import pytest
from support.processes import LIMIT_S, Lab, number_of, numbered

from zbuf.consumer import INDEX_DTYPE, Batch, PacketCopy, Reader, connect
from zbuf.consumer.reading.options import Wait
from zbuf.shared.errors import StaleBuffer


@pytest.fixture
def reader(lab: Lab) -> Iterator[Reader]:
    with connect(lab.name, buffer_size=4096, timeout_ms=0) as reader:
        yield reader


def test_batch_has_the_place_of_each_packet_in_its_bytes(lab: Lab, reader: Reader) -> None:
    lab.process.do(
        "for size in (60, 61, 100): producer.append(numbered(size, size), time_ns=size, wirelen=2 * size)",
    )
    reader.rotate()
    batch = next(reader.index_batches())
    assert isinstance(batch, Batch)
    assert len(batch) == 3
    assert batch.index.dtype == INDEX_DTYPE
    assert batch.data.dtype == numpy.uint8
    assert batch.index["caplen"].tolist() == [60, 61, 100]
    assert batch.index["wirelen"].tolist() == [120, 122, 200]
    assert batch.index["time_ns"].tolist() == [60, 61, 100]
    for row in batch.index:
        assert bytes(batch.data[row["offset"] : row["offset"] + row["caplen"]]) == numbered(
            int(row["caplen"]), int(row["caplen"])
        )


def test_array_expressions_filter_a_batch(lab: Lab, reader: Reader) -> None:
    lab.append(20)
    lab.process.begin("producer.close()")
    found = []
    for batch in reader.index_batches():
        even = batch.index[batch.data[batch.index["offset"]] % 2 == 0]
        found += batch.data[even["offset"]].tolist()
    lab.process.result()
    assert found == list(range(0, 20, 2))


def test_data_are_a_view_and_read_only(lab: Lab, reader: Reader) -> None:
    lab.append()
    reader.rotate()
    batch = next(reader.index_batches())
    data = batch.data
    assert not data.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1
    assert reader.holds_views
    del data
    assert not reader.holds_views


def test_data_of_a_batch_that_was_moved_on_from_are_stale_and_its_index_is_not(lab: Lab, reader: Reader) -> None:
    batches = reader.index_batches()
    lab.append()
    reader.rotate()
    first = next(batches)
    lab.append()
    lab.process.begin("producer.close()")
    next(batches)
    lab.process.result()
    assert first.index["caplen"].tolist() == [60]
    with pytest.raises(StaleBuffer):
        first.data  # noqa: B018  (looking is what raises)


def test_loop_that_keeps_no_view_holds_no_buffer(lab: Lab, reader: Reader) -> None:
    """While it waits for the next one, the producer has both buffers."""
    lab.append()
    reader.rotate()
    seen = []
    batches = reader.index_batches()
    batch = next(batches)
    seen.append(int(batch.data.sum()))
    threading.Timer(0.1, reader.interrupt).start()
    assert next(batches, None) is None
    (descriptor,) = lab.descriptors()
    assert [one.holding for one in descriptor.readers] == [0]


def test_copy_of_a_packet_outlives_its_buffer_and_can_be_pickled(lab: Lab, reader: Reader) -> None:
    lab.process.do("producer.append(numbered(7), time_ns=5, wirelen=1000, direction='in')")
    reader.rotate()
    buffer = reader.next_buffer(timeout=LIMIT_S)
    assert buffer is not None
    (packet,) = buffer
    copied = packet.copy()
    buffer.acknowledge()
    with pytest.raises(StaleBuffer):
        packet.copy()
    inbound = bytes([2, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0])  # epb_flags, opt_endofopt
    assert copied == PacketCopy(numbered(7), 5, 1000, 0, 0, "in", inbound)
    assert pickle.loads(pickle.dumps(copied)) == copied  # noqa: S301
    assert (bytes(copied), len(copied), copied.caplen, number_of(copied.data)) == (numbered(7), 60, 60, 7)


@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_interrupt_from_a_signal_handler_ends_a_wait_at_once_and_loses_nothing(lab: Lab, wait: Wait) -> None:
    with connect(lab.name, wait=wait, timeout_ms=0) as reader:
        before = signal.signal(signal.SIGALRM, lambda *_: reader.interrupt())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            assert reader.next_buffer() is None
            assert not reader.finished
        finally:
            signal.signal(signal.SIGALRM, before)
        sent = lab.append(3)
        reader.rotate()
        buffer = reader.next_buffer(timeout=LIMIT_S)
        assert buffer is not None
        assert [number_of(bytes(packet)) for packet in buffer] == sent


@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_interrupt_from_another_thread_ends_an_iteration(lab: Lab, wait: Wait) -> None:
    with connect(lab.name, wait=wait) as reader:
        threading.Timer(0.05, reader.interrupt).start()
        assert list(reader) == []
        assert not reader.finished


def test_interrupt_before_a_wait_ends_that_one_and_no_buffer_is_lost(lab: Lab, reader: Reader) -> None:
    reader.interrupt()
    assert reader.next_buffer() is None
    reader.interrupt()
    lab.append()
    reader.rotate()
    assert reader.next_buffer() is not None
    assert reader.next_buffer() is None
