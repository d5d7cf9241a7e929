"""What readers may ask for is limited, and what they did is counted."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap
from support.embedding import PAGE, PER_PAGE, NewRemote, adds_up, segments
from support.processes import LIMIT_S, numbered, take

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import Producer
from zbuf.producer.serving.limits import Limits
from zbuf.shared.control.rundir_place import socket_path
from zbuf.shared.errors import ControlError, Refused

pytestmark = pytest.mark.usefixtures("run_dir")

# ---- limits ---------------------------------------------------------------------------------------------------------


def test_more_descriptors_than_may_be_are_refused_until_one_is_free(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(descriptors=2)), connect(producer_name):
        second = connect(producer_name, join="group")
        with pytest.raises(Refused, match="all 2 descriptors of this producer are in use"):
            connect(producer_name)
        with pytest.raises(Refused, match="all 2 descriptors of this producer are in use"):
            connect(producer_name, join="another")
        connect(producer_name, join="group").close()
        second.close()
        retry(lambda: connect(producer_name)).close()


def test_more_readers_than_may_be_are_refused_until_one_is_gone(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(readers=2)), connect(producer_name, join="group"):
        second = connect(producer_name)
        for join in (None, "group", "another"):
            with pytest.raises(Refused, match="all 2 readers that this producer serves are there"):
                connect(producer_name, join=join)
        assert len(segments(producer_name)) == 2
        second.close()
        retry(lambda: connect(producer_name)).close()


def test_a_refused_reader_gets_no_file_descriptors(producer_name: str, run_dir: Path) -> None:
    with Producer(producer_name, limits=Limits(readers=1)), connect(producer_name, join="group"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(LIMIT_S)
            client.connect(str(socket_path(run_dir, producer_name)))
            client.send(b'{"type":"connect","join":"group"}')
            answer, fds, _, _ = socket.recv_fds(client, 4096, 3)
        assert b"all 1 readers that this producer serves are there" in answer
        assert fds == []


def test_more_connections_than_may_be_are_refused_until_one_is_gone(producer_name: str) -> None:
    with Producer(producer_name, limits=Limits(connections=2)), connect(producer_name):
        second = Connection(producer_name)
        second.stats()
        for _ in range(30):  # whether it is refused before or after it asks: it learns why
            with Connection(producer_name) as third, pytest.raises(ControlError, match="more than 2 connections"):
                third.stats()
        with pytest.raises(ControlError, match="more than 2 connections"):
            connect(producer_name)
        second.close()
        retry(lambda: connect(producer_name)).close()


def retry(function: Callable[[], Any]) -> Any:
    """Try until it is not refused: the producer may not have seen yet that somebody left."""
    for _ in range(100_000):
        with contextlib.suppress(ControlError):
            return function()
    raise AssertionError("it is refused for ever")


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_add_up_at_every_call_while_packets_flow(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    (tmp_path / "lab.pcap").write_bytes(pcap([Record(numbered(number), 0, 60) for number in range(100)]))
    process, busy = remote(), remote()
    process.do(
        "producer = Producer(name, linger_s=0); source = FileSource([path])",
        name=producer_name,
        path=str(tmp_path / "lab.pcap"),
    )
    busy.do("reader = connect(name, buffer_size=65536)", name=producer_name)
    with (
        connect(producer_name, filter="len < 10"),
        connect(producer_name, buffer_size=PAGE),
        Connection(producer_name) as control,
    ):
        process.begin("producer.publish(source, loops=0)")
        busy.begin("sum(len(buffer) for buffer in reader.buffers())")
        offered = -1
        for _ in range(100):
            found = control.stats()
            assert len(found.descriptors) == 3
            assert all(adds_up(one) and one.received <= found.offered + 256 for one in found.descriptors)
            assert len({one.received for one in found.descriptors}) <= 3
            assert found.offered >= offered
            offered = found.offered
        assert offered > 0
        filtered, slow = found.descriptors[1:]
        assert filtered.filtered == filtered.received > 0
        assert slow.dropped == slow.received - 2 * PER_PAGE
        process.signal(2)
        with pytest.raises(KeyboardInterrupt):
            process.result()
        process.do("producer.close()")
        assert busy.result() > 0
        ledger = busy.ask("reader.ledger()")
        assert adds_up(ledger)


def test_sums_of_descriptors_that_are_gone_stay(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        for number in range(3):
            with connect(producer_name) as reader:
                producer.append(numbered(number))
                reader.rotate()
                take(reader, 1)
                producer.append(numbered(99))
        while producer.stats().descriptors:
            os.sched_yield()
        closed = producer.stats().closed
        assert (closed.received, closed.accepted, closed.buffered) == (6, 6, 0)
        assert closed.delivered + closed.abandoned == 6
        assert adds_up(closed)
        assert [one.received for one in producer.final_stats().descriptors] == [2, 2, 2]


def test_statistics_tell_whose_each_reader_is(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name, interfaces=["eth7"], linktype=101) as producer:
        process.do("readers = [connect(name, filter='tcp', snaplen=96), connect(name, join='g')]", name=producer_name)
        with connect(producer_name, join="g"):
            found = producer.stats()
        assert (found.producer, found.pid, found.linktypes, found.interfaces) == (
            producer_name,
            os.getpid(),
            [101],
            ["eth7"],
        )
        private, shared = found.descriptors
        assert (private.join, private.settings.filter, private.settings.snaplen) == (None, "tcp", 96)
        assert [one.pid for one in private.readers] == [process.pid]
        assert shared.join == "g"
        assert sorted(one.pid for one in shared.readers) == sorted([process.pid, os.getpid()])
