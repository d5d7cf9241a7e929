"""A client connects: what it asks for is what it gets, or it is told why not."""

import contextlib
import gc
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from support.captures import received
from support.embedding import PAGE, PER_PAGE
from support.processes import LIMIT_S, Lab, number_of, open_fds, take

from zbuf.consumer import connect
from zbuf.shared.errors import ProducerNotFound, ValueRefused, ZbufError
from zbuf.shared.memory.pcapng import Interface

ETHERNET = 1


def test_reader_tells_what_it_is_connected_to(lab: Lab) -> None:
    with connect(lab.name, snaplen=96) as reader:
        assert (reader.name, reader.snaplen, reader.linktype) == (lab.name, 96, ETHERNET)
        assert reader.interfaces == [Interface(lab.name, ETHERNET)]
        assert reader.prologue.startswith(b"\n\r\r\n")
        assert (reader.end_reason, reader.finished) == (None, False)
        assert [one.descriptor for one in lab.descriptors()] == [reader.descriptor]


def test_filter_lets_in_what_it_names(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100") as reader, connect(lab.name) as other:
        lab.append(3)
        wanted = lab.append(2, size=200)
        assert [number_of(record.data) for record in received(reader)] == wanted
        assert len(received(other)) == 5
        filtered = lab.descriptors()[0]
        assert (filtered.received, filtered.filtered, filtered.accepted) == (5, 3, 2)


def test_filter_can_be_of_several_lines(lab: Lab) -> None:
    with connect(lab.name, filter="len > 100\n\tand len < 300\r\n") as reader:
        lab.append()
        wanted = lab.append(size=200)
        assert [number_of(record.data) for record in received(reader)] == wanted


def test_snaplen_cuts_and_keeps_the_length_on_the_wire(lab: Lab) -> None:
    with connect(lab.name, snaplen=20) as reader, connect(lab.name, snaplen=1) as shortest:
        lab.append(size=100)
        lab.append(size=20)
        assert [(len(one.data), one.wirelen) for one in received(reader)] == [(20, 100), (20, 20)]
        assert [(len(one.data), one.wirelen) for one in received(shortest)] == [(1, 100), (1, 20)]
        assert [one.truncated for one in lab.descriptors()] == [1, 2]


@pytest.mark.parametrize(("direction", "wanted"), [("in", [0, 2]), ("out", [1, 2]), ("inout", [0, 1, 2])])
def test_direction_lets_in_that_one_and_what_has_none(lab: Lab, direction: Any, wanted: list[int]) -> None:
    with connect(lab.name, direction=direction) as reader:
        lab.append(direction="in")
        lab.append(direction="out")
        lab.append()
        assert [number_of(record.data) for record in received(reader)] == wanted


def test_buffer_size_is_the_readers_choice(lab: Lab) -> None:
    with connect(lab.name, buffer_size=PAGE) as small, connect(lab.name) as usual:
        sizes = [one.settings.buffer_bytes for one in lab.descriptors()]
        assert sizes == [PAGE, 512 * PAGE]
        lab.append(2 * PER_PAGE + 10)
        assert take(small, 2 * PER_PAGE) == list(range(2 * PER_PAGE))
        assert len(received(usual)) == 2 * PER_PAGE + 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wait": "doze"}, "wait='doze': it must be 'sleep' or 'spin'"),
        ({"snaplen": 0}, "snaplen 0"),
        ({"snaplen": 262_145}, "snaplen 262145"),
        ({"buffer_size": 0}, "buffer size 0: it must be more than zero"),
        ({"buffer_size": "much"}, "buffer size 'much': write bytes, or a number with k, M or G, such as '8M'"),
        ({"buffer_size": (1 << 30) + PAGE}, "buffer size 1073745920 is more than the maximum"),
        ({"timeout_ms": -1}, "read timeout -1 ms"),
        ({"timeout_ms": 3_600_001}, "3600001"),
        ({"spin_us": -1}, "spin_us=-1: it must be from 0 to 1000000"),
        ({"spin_us": 1 << 64}, "spin_us=18446744073709551616"),
        ({"direction": "up"}, "direction 'up'"),
        ({"filter": "x" * 9000}, "filter of 9000 characters"),
        ({"filter": "foo bar"}, "filter 'foo bar': .*syntax error"),
        ({"filter": "\udcff"}, "filter"),
        ({"filter": "tcp\0"}, "filter 'tcp"),
        ({"join": "a/b"}, "group name 'a/b' can't be used"),
        ({"join": "x" * 49}, "group name 'x+' has 49 characters: use at most 48"),
        ({"join": ""}, "group name ''"),
    ],
)
def test_argument_that_can_not_be_is_refused_and_leaves_nothing_behind(
    lab: Lab, options: dict[str, Any], message: str
) -> None:
    connect(lab.name, filter="udp").close()  # starts the process that compiles
    lab.wait_descriptors(0)
    gc.collect()
    ours, theirs = open_fds(), lab.process.fds
    with pytest.raises(ZbufError, match=message) as refused:
        connect(lab.name, **options)
    assert "\n" not in str(refused.value)
    assert open_fds() == ours
    lab.wait_fds(theirs)
    assert lab.descriptors() == []


def test_producer_that_is_not_there_is_named_with_those_that_are(lab: Lab, run_dir: Path) -> None:
    with pytest.raises(
        ProducerNotFound, match=re.escape(f"no producer 'none' runs in {run_dir} (there is: {lab.name})")
    ):
        connect("none")
    with pytest.raises(ProducerNotFound, match=r"no producer 'none' runs in .*/empty: start it with zbufd"):
        connect("none", run_dir=run_dir / "empty")
    with pytest.raises(ValueRefused, match="producer name 'a/b' can't be used"):
        connect("a/b")


def test_connecting_waits_while_the_producer_is_too_busy_to_let_anybody_in(lab: Lab, run_dir: Path) -> None:
    with contextlib.ExitStack() as cleaning:
        lab.process.signal(signal.SIGSTOP)
        cleaning.callback(lab.process.signal, signal.SIGCONT)
        fill_backlog(str(run_dir / f"{lab.name}.sock"), cleaning)
        outcome: list[Any] = []
        started = threading.Event()

        def connect_now() -> None:
            started.set()
            try:
                with connect(lab.name) as reader:
                    outcome.append(reader.name)
            except ZbufError as error:
                outcome.append(error)

        thread = threading.Thread(target=connect_now)
        thread.start()
        started.wait(LIMIT_S)
        thread.join(0.05)  # what gives up does so at once
        assert outcome == []
        lab.process.signal(signal.SIGCONT)
        thread.join(LIMIT_S)
        assert outcome == [lab.name]


def fill_backlog(path: str, cleaning: contextlib.ExitStack) -> None:
    """Connect until the kernel has no room for one more that was not let in."""
    for _ in range(10_000):
        connection = cleaning.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
        try:
            connection.connect(path)
        except BlockingIOError:
            return
    raise AssertionError("there is always room")
