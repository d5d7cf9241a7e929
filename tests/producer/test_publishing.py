"""Any Python program is a producer, and readers in other processes get what it appends."""

import errno
import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from support.captures import Record, again, pcap, received, sample
from support.embedding import NewRemote
from support.processes import numbered, open_fds, take, take_all

from zbuf.consumer import connect, producers
from zbuf.producer import (
    FileSource,
    Interface,
    Limits,
    LiveOptions,
    LiveSource,
    Producer,
    RawPacket,
    Rule,
    ScapySource,
)
from zbuf.shared.errors import RunDirectoryError, ValueRefused

pytestmark = pytest.mark.usefixtures("run_dir")

# ---- from one process to another ------------------------------------------------------------------------------------


def test_what_one_process_appends_another_receives(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    with Producer(producer_name) as producer:
        process.do("reader = connect(name)", name=producer_name)
        for number in range(1000):
            assert producer.append(numbered(number))
        process.begin("take_all(reader)")
    assert process.result() == list(range(1000))
    assert process.ask("reader.end_reason") == "closed"


def test_what_another_process_appends_is_received_here(remote: NewRemote, producer_name: str) -> None:
    process = remote()
    process.do("producer = Producer(name)", name=producer_name)
    with connect(producer_name) as reader:
        process.begin("for number in range(1000): producer.append(numbered(number))\nproducer.close()")
        assert take_all(reader) == list(range(1000))
    process.result()


def test_files_that_are_published_reach_several_processes(
    remote: NewRemote, producer_name: str, tmp_path: Path
) -> None:
    records = sample(1000)
    (tmp_path / "lab.pcap").write_bytes(pcap(records))
    readers = [remote() for _ in range(3)]
    with Producer(producer_name) as producer:
        for process in readers:
            process.do("reader = connect(name)", name=producer_name)
        assert producer.publish(FileSource([str(tmp_path / "lab.pcap")]), loops=3) == 3 * len(records)
        for process in readers:
            process.begin("[(bytes(one), one.time_ns, one.wirelen) for one in reader]")
    for process in readers:
        assert process.result() == [(one.data, one.time_ns, one.wirelen) for one in again(records, 3)]


def test_everything_about_a_packet_arrives(producer_name: str) -> None:
    with Producer(producer_name, interfaces=["a", "b"], linktype=101) as producer, connect(producer_name) as reader:
        producer.append(b"abc", time_ns=17, wirelen=1500, interface=1, direction="out")
        producer.append(memoryview(b"x" * 3000)[1:], time_ns=2**64 - 1, direction="in")
        producer.append(b"", time_ns=0)
        reader.rotate()
        buffer = reader.next_buffer()
        assert buffer is not None
        assert [(bytes(one), one.time_ns, one.wirelen, one.interface, one.direction) for one in buffer] == [
            (b"abc", 17, 1500, 1, "out"),
            (b"x" * 2999, 2**64 - 1, 2999, 0, "in"),
            (b"", 0, 0, 0, "inout"),
        ]
        assert [(one.name, one.linktype) for one in reader.interfaces] == [("a", 101), ("b", 101)]


def test_packets_begin_with_the_first_one_after_connecting(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        producer.append(numbered(0))
        with connect(producer_name) as reader:
            producer.append(numbered(1))
            reader.rotate()
            assert take(reader, 1) == [1]


def test_packets_without_readers_are_offered_and_gone(producer_name: str) -> None:
    with Producer(producer_name, lossless=True) as producer:
        assert producer.publish(numbered(number) for number in range(10)) == 10
        assert (producer.offered, producer.stats().descriptors) == (10, [])


def test_raw_packets_keep_their_interface(producer_name: str) -> None:
    packets = [RawPacket(b"abc", 17, 1500, 1), RawPacket(b"d", 18)]
    with Producer(producer_name, interfaces=["a", "b"]) as producer, connect(producer_name) as reader:
        assert producer.publish(packets) == 2
        assert received(reader) == [Record(b"abc", 17, 1500, 1), Record(b"d", 18, 1, 0)]


def test_producers_of_one_process_are_independent(producer_name: str) -> None:
    with (
        Producer(f"{producer_name}1") as first,
        Producer(f"{producer_name}2") as second,
        connect(first.name) as one,
        connect(second.name) as two,
    ):
        first.append(numbered(1))
        second.append(numbered(2))
        assert [record.data for record in received(one)] == [numbered(1)]
        assert [record.data for record in received(two)] == [numbered(2)]


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"time_ns": -1}, "-1"),
        ({"time_ns": 2**64}, str(2**64)),
        ({"time_ns": int(time.time())}, "these are seconds: give nanoseconds"),
        ({"wirelen": 2}, "wirelen=2: the packet has 3 captured bytes"),
        ({"wirelen": -1}, "-1"),
        ({"wirelen": 2**32}, str(2**32)),
        ({"interface": 1}, "interface 1: this producer has 1"),
        ({"interface": -1}, "interface -1"),
        ({"direction": "up"}, "direction 'up': it must be in, out or inout"),
    ],
)
def test_argument_out_of_its_range_is_refused_by_its_value(
    producer_name: str, options: dict[str, Any], value: str
) -> None:
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        with pytest.raises(ValueRefused, match=re.escape(value)):
            producer.append(b"abc", **options)
        producer.append(b"next", time_ns=1)
        assert received(reader) == [Record(b"next", 1, 4)]
        assert producer.offered == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_ns": time.time()}, "time_ns=.*: it must be an int of nanoseconds"),
        ({"time_ns": "now"}, "time_ns must be an int, not str: 'now'"),
        ({"wirelen": 60.0}, "wirelen must be an int, not float: 60.0"),
        ({"interface": "eth0"}, "interface must be an int, not str: 'eth0'"),
        ({"direction": 1}, "direction must be a str, not int: 1"),
        ({"data": "text"}, "data must be bytes-like, not str: 'text'"),
        ({"data": "text", "wirelen": 60}, "data must be bytes-like, not str: 'text'"),
    ],
)
def test_argument_of_a_wrong_type_is_a_type_error_that_names_it(
    producer_name: str, options: dict[str, Any], message: str
) -> None:
    numbers: dict[str, Any] = {"time_ns": numpy.uint64(1), "wirelen": numpy.int32(3), "interface": numpy.uint8(0)}
    with Producer(producer_name) as producer:
        with pytest.raises(TypeError, match=f"^{message}"):
            producer.append(**{"data": b"abc", **options})
        assert producer.append(b"abc", **numbers)


def test_an_item_that_is_published_is_checked_as_an_appended_packet_is(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        with pytest.raises(TypeError, match="time_ns="):
            producer.publish([(b"abc", time.time())])
        with pytest.raises(ValueRefused, match="wirelen=2"):
            producer.publish([RawPacket(b"abc", 1, 2)])
        with pytest.raises(TypeError, match="source must be several, not int: 3"):
            producer.publish(3)


def test_a_size_of_buffers_is_rounded_up_and_may_have_a_unit(producer_name: str) -> None:
    with (
        Producer(producer_name, buffer_size="5k") as producer,
        connect(producer_name),
        connect(producer_name, buffer_size=1),
    ):
        assert [one.settings.buffer_bytes for one in producer.stats().descriptors] == [8192, 4096]


def test_what_producers_and_sources_are_made_of_is_checked_by_type(producer_name: str) -> None:
    name: Any = producer_name
    wrong: list[tuple[Callable[..., object], dict[str, Any], str]] = [
        (Producer, {"name": 3}, "name must be a str, not int: 3"),
        (Producer, {"name": name, "interfaces": "eth0"}, "interfaces must be several, each a str or an Interface"),
        (Producer, {"name": name, "lossless": "no"}, "lossless must be True or False"),
        (Producer, {"name": name, "allow": ["root"]}, "allow must be several, each a Rule"),
        (Producer, {"name": name, "limits": 3}, "limits must be a Limits"),
        (Limits, {"readers": "3"}, "readers must be an int"),
        (Rule, {"users": "root"}, "users must be several, each a str"),
        (Interface, {"name": 3, "linktype": 1}, "name must be a str"),
        (FileSource, {"paths": 3}, "paths must be a str"),
        (ScapySource, {"paths": [3]}, "paths must be a str"),
        (LiveSource, {"names": [3]}, "names must be a str"),
        (LiveOptions, {"snaplen": "96"}, "snaplen must be an int"),
        (connect, {"name": 3}, "name must be a str or None"),
        (connect, {"name": name, "timeout_ms": "1"}, "timeout_ms must be an int or a number"),
        (connect, {"name": name, "buffer_size": 1.5}, "buffer_size must be an int, a str or None, not float: 1.5"),
        (producers, {"run_dir": 3}, "run_dir must be a str"),
    ]
    for make, arguments, message in wrong:
        with pytest.raises(TypeError, match=f"^{message}"):
            make(**arguments)


def test_data_that_is_not_bytes_is_a_type_error(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        with pytest.raises(TypeError, match="bytes-like"):
            producer.append("text")
        assert producer.append(b"next")


@pytest.mark.parametrize("linktype", [-1, 65536, 1 << 28])
def test_link_type_that_no_capture_file_has_is_refused(producer_name: str, linktype: int) -> None:
    with pytest.raises(ValueRefused, match=str(linktype)):
        Producer(producer_name, linktype=linktype).close()


@pytest.mark.parametrize("size", [0, -4096, (1 << 30) + 4096])
def test_buffer_size_that_can_not_be_is_refused_and_takes_no_name(producer_name: str, size: int) -> None:
    with pytest.raises(ValueRefused, match=f"buffer size {size}"):
        Producer(producer_name, buffer_size=size)
    Producer(producer_name).close()


@pytest.mark.parametrize("name", ["", "a/b", "x" * 49, "../up"])
def test_name_that_can_not_be_is_refused(name: str) -> None:
    with pytest.raises(ValueRefused, match="producer name"):
        Producer(name)


def test_socket_path_that_is_too_long_is_refused_before_anything_is_made(producer_name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueRefused, match="longer than 107 bytes: use a shorter --run-dir"):
        Producer(producer_name, run_dir=tmp_path / ("x" * 100))
    assert list(tmp_path.iterdir()) == []


def test_run_directory_that_is_a_file_is_refused_by_its_name(producer_name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match=f"run directory {tmp_path}/file: .+: choose another"):
        Producer(producer_name, run_dir=tmp_path / "file")


def test_control_socket_that_can_not_be_made_gives_the_name_back(
    producer_name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_dir / producer_name / "control.sock"
    gc.collect()
    before = open_fds()
    with monkeypatch.context() as patched:

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr(Path, "chmod", fail)
        with pytest.raises(RunDirectoryError, match=f"control socket {re.escape(str(path))}: No space left on device"):
            Producer(producer_name)
    assert open_fds() == before
    assert list(run_dir.iterdir()) == []
    Producer(producer_name).close()


def test_several_files_for_a_producer_of_one_interface_are_refused(producer_name: str, tmp_path: Path) -> None:
    # Packets of an interface that the prologue does not describe would make a file that no tool reads.
    for name in ("a.pcap", "b.pcap"):
        (tmp_path / name).write_bytes(pcap(sample(1000, [60])))
    source = FileSource([str(tmp_path / "a.pcap"), str(tmp_path / "b.pcap")])
    with Producer(producer_name) as producer, connect(producer_name) as reader:
        with pytest.raises(ValueRefused, match="interface"):
            producer.publish(source)
        assert [record.interface for record in received(reader)] in ([], [0])
