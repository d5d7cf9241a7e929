"""The log of refusals: a line now and then, however often somebody is refused."""

import logging

import pytest

from zbuf.producer.serving.refusals import Refusals


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[now]: the time in seconds, which a test sets."""
    now = [100.0]
    monkeypatch.setattr("zbuf.producer.serving.refusals.time.monotonic", lambda: now[0])
    return now


def test_the_first_refusal_is_logged_at_once_and_the_others_are_counted(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = Refusals()
    for _ in range(1000):
        log.note(7, "user x", "a kind", "because")
    assert caplog.messages == ["refused user x: because"]
    log.tick()
    clock[0] += 10
    log.tick()
    assert caplog.messages[1:] == ["refused user x: because: 999 times more"]
    log.note(7, "user x", "a kind", "because")
    assert len(caplog.messages) == 3


def test_users_and_kinds_have_lines_of_their_own_and_are_bounded_together(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = Refusals()
    for _ in range(3):
        for uid in range(1000):
            log.note(uid, f"user {uid}", "a kind", "because")
    assert len(caplog.messages) == 20
    clock[0] += 10
    log.tick()
    assert len(caplog.messages) == 41
    assert caplog.messages[-1] == "refused other users, or for other reasons: 2940 times"


def test_a_reason_that_a_peer_made_up_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Refusals().note(7, "user x", "a kind", "filter 'a\nzbufd: all is well\x1b[2J'" + "x" * 10_000)
    [line] = caplog.messages
    assert line.startswith(r"refused user x: filter 'a\nzbufd: all is well\x1b[2J'")
    assert len(line) < 400
