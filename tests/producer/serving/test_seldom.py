"""Events that repeat themselves are logged once in a while."""

import logging
from types import SimpleNamespace

import pytest

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.producer.serving.access import Access
from zbuf.producer.serving.seldom import EVERY_S, Seldom
from zbuf.shared.errors import Refused


def test_first_event_passes_and_then_one_in_a_minute_that_counts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("zbuf.producer.serving.seldom.time", SimpleNamespace(monotonic=lambda: now[0]))
    seldom = Seldom()
    assert [seldom.note("a"), seldom.note("a"), seldom.note("b"), seldom.note("a")] == [0, None, 0, None]
    now[0] += EVERY_S
    assert [seldom.note("a"), seldom.note("b"), seldom.note("a")] == [2, 0, None]


def test_many_causes_do_not_fill_the_memory() -> None:
    seldom = Seldom()
    for cause in range(5000):
        assert seldom.note(cause) == 0
    assert len(seldom._last) <= 1024


@pytest.mark.usefixtures("run_dir")
def test_client_that_is_refused_again_and_again_is_logged_once(
    producer_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_access: Access, _peer: object) -> None:
        raise Refused("not allowed to read this capture")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Access, "grant", refuse)
    with Producer(producer_name):
        for _ in range(20):
            with pytest.raises(Refused, match="not allowed to read this capture"):
                connect(producer_name)
    assert caplog.text.count("not on the allow list") == 1
