"""A word about a wait that takes long."""

import logging
from types import SimpleNamespace

import pytest

from zbuf.shared.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test moves on."""
    now = [1000.0]
    monkeypatch.setattr("zbuf.shared.patience.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_wait_is_told_once_and_after_two_seconds(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zbuf.waiting")
    waiting = Patience(lambda: "waiting for Godot")
    assert waiting.left_s == 2.0
    for now in (1000.0, 1001.9):
        clock[0] = now
        waiting.tell()
    assert caplog.messages == []
    assert waiting.left_s == pytest.approx(0.1)
    for now in (1002.0, 1009.0, 5000.0):
        clock[0] = now
        waiting.tell()
    assert caplog.messages == ["waiting for Godot"]


def test_who_is_waited_for_is_asked_only_where_it_takes_long(clock: list[float]) -> None:
    asked: list[float] = []

    def describe() -> str:
        asked.append(clock[0])
        return "waiting for Godot"

    waiting = Patience(describe)
    waiting.tell()
    assert asked == []
    clock[0] += 3
    waiting.tell()
    assert asked == [1003.0]
