"""Readers join a shared descriptor: each packet is there once, for all of them."""

from collections.abc import Callable
from typing import Any

import pytest
from support.embedding import PAGE
from support.processes import LIMIT_S, Lab, Remote, take

from zbuf.consumer import connect
from zbuf.shared.errors import Refused


def test_all_who_join_a_descriptor_get_each_packet_once(lab: Lab, remote: Callable[[], Remote]) -> None:
    process = remote()
    with connect(lab.name, join="ids") as reader:
        process.do("reader = connect(name, join='ids')", name=lab.name)
        assert process.ask("reader.descriptor") == reader.descriptor
        lab.append(100)
        reader.rotate()
        process.begin("take(reader, 100)")
        assert take(reader, 100) == process.result() == list(range(100))
        assert len(lab.descriptors()) == 1


def test_shared_buffer_is_free_once_every_reader_has_acknowledged_it(lab: Lab) -> None:
    with connect(lab.name, join="ids") as one, connect(lab.name, join="ids") as two:
        lab.append()
        one.rotate()
        for reader in (one, two):
            assert lab.descriptors()[0].buffered == 1
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            buffer.acknowledge()
        assert lab.descriptors()[0].delivered == 1


def test_reader_that_joins_late_gets_what_is_appended_from_then_on(lab: Lab) -> None:
    with connect(lab.name, join="ids") as early:
        lab.append(10)
        early.rotate()
        with connect(lab.name, join="ids") as late:
            lab.append(5)
            assert take(early, 10) == list(range(10))
            assert early.next_buffer(timeout=0) is None
            late.rotate()
            assert take(late, 5) == take(early, 5) == list(range(10, 15))


def test_joining_without_settings_takes_those_that_are_there(lab: Lab) -> None:
    with (
        connect(lab.name, join="ids", filter="len > 100", snaplen=50, buffer_size=PAGE) as first,
        connect(lab.name, join="ids") as second,
    ):
        assert second.descriptor == first.descriptor
        assert second.snaplen == 50


def test_joining_with_the_same_settings_is_joining(lab: Lab) -> None:
    options: Any = {"filter": "tcp", "snaplen": 50, "timeout_ms": 7, "direction": "in", "immediate": True}
    with connect(lab.name, join="ids", **options) as first, connect(lab.name, join="ids", **options) as second:
        assert second.descriptor == first.descriptor


@pytest.mark.parametrize(
    "options",
    [{"filter": "udp"}, {"snaplen": 51}, {"buffer_size": 2 * PAGE}, {"timeout_ms": 8}, {"immediate": True}],
)
def test_joining_with_other_settings_is_refused(lab: Lab, options: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"filter": "tcp", "snaplen": 50, "timeout_ms": 7, "buffer_size": PAGE}
    with connect(lab.name, join="ids", **settings) as reader:
        with pytest.raises(Refused, match="descriptor 'ids' is there with other settings"):
            connect(lab.name, join="ids", **settings | options)
        with pytest.raises(Refused, match="descriptor 'ids' is there with other settings"):
            connect(lab.name, join="ids", **options)
        assert len(lab.descriptors()[0].readers) == 1
        assert reader.rotate() is False


def test_descriptor_of_another_name_is_another(lab: Lab) -> None:
    with connect(lab.name, join="one") as one, connect(lab.name, join="two") as two, connect(lab.name) as private:
        assert len({one.descriptor, two.descriptor, private.descriptor}) == 3


def test_name_of_a_descriptor_is_free_once_the_last_reader_left(lab: Lab) -> None:
    with connect(lab.name, join="ids", filter="tcp") as reader:
        first = reader.descriptor
    lab.wait_descriptors(0)
    with connect(lab.name, join="ids", filter="udp") as reader:
        assert reader.descriptor != first


def test_joining_and_leaving_at_once_never_fails(lab: Lab, remote: Callable[[], Remote]) -> None:
    processes = [remote() for _ in range(3)]
    for process in processes:
        process.do(
            "def come_and_go():\n  for _ in range(60): connect(name, join='g', buffer_size=4096).close()", name=lab.name
        )
        process.begin("come_and_go()")
    for process in processes:
        process.result()
    lab.wait_descriptors(0)
