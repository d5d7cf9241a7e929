"""zbuf top: how it asks producers, and what it shows when they don't answer."""

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import LIMIT_S, Lab, Remote, wait_stopped
from support.statistics import PAGE, descriptor, producer, reader, seen, text_of

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.tools.top import watch
from zbuf.consumer.tools.top.rates import Compared, is_slow
from zbuf.consumer.tools.top.view import heading
from zbuf.consumer.tools.top.watch import Captures, Seen
from zbuf.shared.control.statistics import (
    Statistics,
)
from zbuf.shared.errors import Refused, ValueRefused

pytestmark = pytest.mark.usefixtures("run_dir")


@pytest.fixture
def captures() -> Iterator[Captures]:
    """All producers of the test."""
    with Captures([], None) as captures:
        yield captures


def found(captures: Captures) -> Compared:
    """The one producer that there is."""
    (one,) = captures.update()
    assert one.found is not None, one.problem
    return one.found


def test_rates_of_a_real_producer_are_the_packets_that_it_was_given(lab: Lab, captures: Captures) -> None:
    with connect(lab.name, filter="len > 100", buffer_size=PAGE) as reading:
        assert found(captures).rates == {}
        lab.append(7)
        lab.append(40, size=200)
        now = found(captures)
        grown = {name: rate * now.interval_s for name, rate in now.descriptors[0].rates.items()}
        dropped = grown.pop("dropped")
        assert now.rates["offered"] * now.interval_s == pytest.approx(47)
        assert grown.pop("received_bytes") == pytest.approx(now.now.descriptors[0].received_bytes)
        assert grown == pytest.approx(
            {"received": 47, "filtered": 7, "accepted": 40, "delivered": 0, "abandoned": 0, "truncated": 0}
        )
        assert dropped == pytest.approx(now.now.descriptors[0].dropped)
        assert dropped > 0
        assert [is_slow(one) for one in now.descriptors[0].readers] == [True]
        assert reading.next_buffer(timeout=LIMIT_S) is not None


def test_flush_gives_no_rates_once_and_right_ones_then(lab: Lab, captures: Captures) -> None:
    with connect(lab.name) as reading:
        lab.append(10)
        found(captures)
        reading.flush()
        assert found(captures).descriptors[0].rates == {}
        lab.append(3)
        now = found(captures)
        assert now.descriptors[0].rates["accepted"] * now.interval_s == pytest.approx(3)


def test_one_connection_and_one_request_for_each_update(
    lab: Lab, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Counted(Connection):
        def __init__(self, *arguments: Any) -> None:
            calls.append("connect")
            super().__init__(*arguments)

        def request(self, request: Any, descriptors: int = 0) -> Any:
            calls.append(type(request).__name__)
            return super().request(request, descriptors)

    monkeypatch.setattr(watch, "Connection", Counted)
    for _ in range(3):
        found(captures)
    assert calls == ["connect", "Stats", "Stats", "Stats"]
    assert lab.descriptors() == []


def test_producers_come_and_go_from_update_to_update(
    remote: Callable[[], Remote], producer_name: str, captures: Captures
) -> None:
    assert captures.update() == []
    first, second = Lab(remote(), f"{producer_name}a"), Lab(remote(), f"{producer_name}b")
    assert [one.name for one in captures.update()] == [first.name, second.name]
    first.kill()  # which leaves its socket there
    assert [one.name for one in captures.update()] == [second.name]
    second.close()
    assert captures.update() == []


def test_producer_that_was_killed_and_is_back_at_the_next_update_has_rates_of_its_own(
    remote: Callable[[], Remote], producer_name: str, captures: Captures
) -> None:
    lab = Lab(remote(), producer_name)
    lab.append(1000)
    epoch = found(captures).now.epoch
    lab.kill()
    lab = Lab(remote(), producer_name)
    lab.append(2000)
    now = found(captures)
    assert now.now.epoch != epoch
    assert (now.rates, now.interval_s) == ({}, 0.0)
    lab.append(5)
    now = found(captures)
    assert now.rates["offered"] * now.interval_s == pytest.approx(5)


def stop(lab: Lab) -> None:
    """Have a producer answer nobody."""
    lab.process.signal(signal.SIGSTOP)
    wait_stopped(lab.process.pid)


def test_producer_that_does_not_answer_is_waited_for_once_and_holds_up_no_other(
    remote: Callable[[], Remote], producer_name: str, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, lab = Lab(remote(), f"{producer_name}a"), Lab(remote(), f"{producer_name}b")
    assert all(one.found for one in captures.update())
    stopped.append(10)
    stop(stopped)
    monkeypatch.setattr(watch, "ANSWER_S", 0.2)
    silent, other = captures.update()
    assert re.fullmatch(r"has not answered for \d+ s", silent.problem)
    assert other.found is not None
    monkeypatch.setattr(watch, "ANSWER_S", 2 * LIMIT_S)  # it would be noticed if this were waited for
    started = time.monotonic()
    lab.append(3)
    silent, other = captures.update()
    assert time.monotonic() - started < LIMIT_S
    assert silent.problem
    assert other.found is not None
    assert other.found.rates["offered"] * other.found.interval_s == pytest.approx(3)
    assert "! has not answered" in "\n".join(text_of(silent, other))
    stopped.process.signal(signal.SIGCONT)
    while (silent := captures.update()[0]).problem:
        assert time.monotonic() - started < LIMIT_S
    assert silent.found is not None
    assert silent.found.rates["offered"] * silent.found.interval_s == pytest.approx(10)


def test_hanging_up_while_an_answer_is_to_come_leaves_no_connection_behind(
    remote: Callable[[], Remote], producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(remote(), producer_name)
    lab.wait_fds(before := lab.process.fds)
    monkeypatch.setattr(watch, "ANSWER_S", 0.05)
    with Captures([], None) as captures:
        stop(lab)
        assert captures.update()[0].problem
    lab.process.signal(signal.SIGCONT)
    lab.wait_fds(before)


def test_producer_that_refuses_is_shown_and_let_alone(
    lab: Lab, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Refusing(Connection):
        def stats(self) -> Statistics:
            asked.append("stats")
            raise Refused("you may see nothing")

    monkeypatch.setattr(watch, "Connection", Refusing)
    for _ in range(3):
        (one,) = captures.update()
        assert (one.name, one.problem) == (lab.name, "refuses: you may see nothing")
    assert asked == ["stats"]
    monkeypatch.setattr(watch, "REFUSED_S", 0)
    captures.update()
    assert asked == ["stats", "stats"]


def test_named_producer_that_does_not_run_is_missed_and_a_socket_of_another_name_is_not(run_dir: Path) -> None:
    for name in ("foreign", "a b\x1b"):
        (run_dir / f"{name}.sock").touch()
    with Captures([], None) as captures:
        assert captures.update() == []
    with Captures(["nobody", "nobody"], None) as captures:
        (one,) = captures.update()
        assert (one.name, one.missing) == ("nobody", True)
        assert one.problem.startswith("no producer 'nobody' runs in ")
    with pytest.raises(ValueRefused, match="producer name 'a b'"):
        Captures(["a b"], None)


def test_heading_says_how_much_there_is() -> None:
    assert heading([]).endswith("  no producer runs")
    one = seen(producer(1.0, descriptor(1, reader(2), reader(3))))
    assert heading([one]).endswith("  1 producer, 1 descriptor, 2 readers")
    assert heading([one, Seen("b", problem="x")]).endswith("  1 producer, 1 descriptor, 2 readers")
