"""Views of a buffer: what lives on, what is stale, what closing leaves behind."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.captures import Record, received
from support.embedding import PAGE, PER_PAGE
from support.processes import LIMIT_S, Lab, numbered, open_fds, take

from zbuf.consumer import INDEX_DTYPE, connect
from zbuf.shared.errors import Refused, StaleBuffer


def test_closing_while_a_view_lives_hangs_up_when_it_dies(lab: Lab) -> None:
    reader = connect(lab.name)
    lab.append(3)
    reader.rotate()
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    view = np.frombuffer(buffer.data, np.uint8)
    reader.close()
    assert reader.end_reason == "left"
    found = lab.descriptors()[0]
    assert (found.readers[0].holding, found.buffered) == (1, 3)  # the memory is ours while the array lives
    copy = view.tobytes()
    assert numbered(2) in copy
    del view
    lab.wait_descriptors(0)
    closed = lab.process.ask("producer.stats().closed")
    assert (closed.delivered, closed.abandoned) == (3, 0)
    with pytest.raises(StaleBuffer):
        bytes(buffer.data)


def test_closing_while_several_views_live_waits_for_the_last(lab: Lab) -> None:
    reader = connect(lab.name)
    lab.append(3)
    reader.rotate()
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    views = [packet.data for packet in buffer]
    reader.close()
    for view in views:
        assert len(lab.descriptors()) == 1
        view.release()
    lab.wait_descriptors(0)


def test_waiting_for_a_buffer_that_ones_own_views_hold_raises_at_once(lab: Lab) -> None:
    with connect(lab.name, buffer_size=PAGE, timeout_ms=0) as reader:
        lab.append(2 * PER_PAGE + 1)  # the last one is dropped, and has the second buffer assigned
        views = []
        for _ in range(2):
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            views.append(np.frombuffer(buffer.data, np.uint8))
        with pytest.raises(BufferError, match="1 of your own views still hold buffer 0, whose memory buffer 2 needs"):
            reader.next_buffer()
        assert numbered(0) in views[0].tobytes()
        assert numbered(PER_PAGE) in views[1].tobytes()
        del views, buffer
        assert reader.next_buffer(timeout=0) is None
        numbers = lab.append()
        reader.rotate()
        assert take(reader, 1) == numbers


def test_acknowledging_while_a_view_lives_raises(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        data = buffer.data
        with pytest.raises(BufferError, match="1 views of it are alive"):
            buffer.acknowledge()
        assert not buffer.acknowledged
        data.release()
        buffer.acknowledge()
        assert buffer.acknowledged


def test_packets_are_stale_after_their_buffer_was_acknowledged(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        packet = next(iter(buffer))
        buffer.acknowledge()
        for use in (bytes, memoryview, len, lambda one: one.caplen, lambda one: one.time_ns, lambda one: one.data):
            with pytest.raises(StaleBuffer, match="was acknowledged"):
                use(packet)
        with pytest.raises(StaleBuffer):
            buffer.index()


def test_index_outlives_its_buffer_and_the_reader(lab: Lab) -> None:
    with connect(lab.name) as reader:
        lab.append(3, time_ns=17)
        reader.rotate()
        buffer = reader.next_buffer(LIMIT_S)
        assert buffer is not None
        index = buffer.index()
    assert index.dtype == INDEX_DTYPE
    assert (index["caplen"].tolist(), index["time_ns"].tolist()) == ([60] * 3, [17] * 3)
    lab.wait_descriptors(0)


def test_two_hundred_readers_one_after_the_other_leave_no_descriptor_open_on_either_side(lab: Lab) -> None:
    gc.collect()
    ours, theirs, threads = open_fds(), lab.process.fds, threading.active_count()
    for number in range(200):
        wait: Any = "spin" if number % 10 == 0 else "sleep"
        with connect(lab.name, buffer_size=PAGE, wait=wait, join="g" if number % 3 == 0 else None) as reader:
            reader.next_buffer(timeout=0)
        del reader  # its mappings, each with a file descriptor, live as long as it does
    lab.wait_fds(theirs)
    assert (open_fds(), threading.active_count()) == (ours, threads)
    assert lab.descriptors() == []
    assert list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*")) == []


def test_two_hundred_refused_readers_leave_no_descriptor_open_on_either_side(lab: Lab) -> None:
    gc.collect()
    connect(lab.name, filter="tcp").close()  # the producer has started what compiles filters
    with connect(lab.name, join="g", buffer_size=PAGE) as reader:
        reader.stats()  # what the producer had open to answer the connect is closed when it answers this
        ours, theirs = open_fds(), lab.process.fds
        for number in range(200):
            options: Any = {"filter": "foo bar"} if number % 2 else {"join": "g", "filter": "tcp"}
            with pytest.raises(Refused):
                connect(lab.name, **options)
        lab.wait_fds(theirs)
        assert open_fds() == ours
        assert len(list(Path("/dev/shm").glob(f"zbuf.{lab.name}.*"))) == 1
        numbers = lab.append()
        assert take(reader, 1) == numbers


def test_packets_of_every_size_come_through_with_their_metadata(lab: Lab) -> None:
    sizes = [*range(70), 1514, 9000, 65535]
    with connect(lab.name) as reader:
        lab.process.do(
            "for size in sizes: producer.append(bytes([size & 255]) * size, time_ns=size, wirelen=size + 1)",
            sizes=sizes,
        )
        assert received(reader) == [Record(bytes([size & 255]) * size, size, size + 1) for size in sizes]
