"""What each user may hold of a producer: a share, so that whoever takes all he can leaves something for others."""

import contextlib
import os
import resource
import threading
from collections.abc import Callable
from typing import Any

import pytest

from zbuf.producer.serving.limits import Limits
from zbuf.producer.serving.shares import Booking, Shares
from zbuf.shared.errors import Refused

FIRST, SECOND, THIRD = 64001, 64002, 64003
KINDS = ["connections", "readers", "descriptors"]


def take_all(shares: Shares, uid: int, **wanted: int) -> int:
    """How often a user gets so much, until it is refused."""
    for count in range(10_000):
        try:
            shares.book(uid, **wanted)
        except Refused:
            return count
    raise AssertionError("it is never refused")


@pytest.mark.parametrize("kind", KINDS)
def test_each_user_gets_as_much_as_is_left_for_others_and_root_gets_the_rest(kind: str) -> None:
    shares = Shares(Limits(descriptors=64, readers=64, connections=64))
    assert [take_all(shares, uid, **{kind: 1}) for uid in (FIRST, SECOND, THIRD)] == [28, 14, 7]
    assert take_all(shares, 0, **{kind: 1}) == 64 - 28 - 14 - 7


@pytest.mark.parametrize("kind", KINDS)
def test_an_eighth_is_for_root_however_many_users_there_are(kind: str) -> None:
    shares = Shares(Limits(descriptors=64, readers=64, connections=64))
    taken = sum(take_all(shares, uid, **{kind: 1}) for uid in range(64001, 64100))
    assert taken == 56
    assert take_all(shares, 0, **{kind: 1}) == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_for_each_user_takes_the_place_of_the_rule(kind: str) -> None:
    per_user: dict[str, Any] = {f"{kind}_per_user": 50}
    shares = Shares(Limits(descriptors=64, readers=64, connections=64, **per_user))
    assert take_all(shares, FIRST, **{kind: 1}) == 50
    assert take_all(shares, SECOND, **{kind: 1}) == 6
    assert take_all(shares, os.geteuid(), **{kind: 1}) == 8


def test_what_is_released_can_be_booked_again_and_once_only() -> None:
    shares = Shares(Limits(readers=2))
    booking = shares.book(0, readers=2)
    booking.release()
    booking.release()
    shares.book(0, readers=2)
    with pytest.raises(Refused, match="all 2 readers"):
        shares.book(0, readers=1)


def test_a_booking_of_several_kinds_that_is_refused_books_none_of_them() -> None:
    shares = Shares(Limits(descriptors=1, readers=10))
    shares.book(0, descriptors=1)
    with pytest.raises(Refused, match="all 1 descriptors of this producer are in use"):
        shares.book(0, readers=10, descriptors=1)
    shares.book(0, readers=10)


def test_a_hundred_at_once_get_no_more_than_one_after_the_other() -> None:
    shares = Shares(Limits(memory_per_user=10 << 20))
    start, booked = threading.Barrier(100), []

    def book() -> None:
        start.wait()
        with contextlib.suppress(Refused):
            booked.append(shares.book(FIRST, memory=1 << 20))

    together(book, 100)
    assert len(booked) == 10
    with pytest.raises(Refused, match="who may have 10485760: use smaller buffers"):
        shares.book(FIRST, memory=1)


def together(function: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_memory_is_booked_before_it_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    space = os.statvfs_result((4096, 4096, 8000, 8000, 4000, 0, 0, 0, 0, 255))  # 4,000 pages of 8,000 are free
    monkeypatch.setattr("zbuf.producer.serving.shares.os.statvfs", lambda _: space)
    shares = Shares(Limits())
    shares.book(FIRST, memory=1000 * 4096)
    shares.book(SECOND, memory=900 * 4096)
    with pytest.raises(Refused):  # of 3,000 that are not root's, 1,100 are left
        shares.book(THIRD, memory=1101 * 4096)
    with pytest.raises(Refused):
        shares.book(FIRST, memory=101 * 4096)
    shares.book(THIRD, memory=1100 * 4096)


def test_file_descriptors_are_shared_within_what_the_process_may_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shares = Shares(Limits())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 64 + 80, hard))
        most = take_all(shares, FIRST, files=1)
        assert 30 <= most <= 40
        with pytest.raises(Refused, match="file descriptors"):
            shares.book(FIRST, files=1)
        assert "RLIMIT_NOFILE" in (shares.shortage() or "")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_limits_that_can_be_reached_are_no_shortage() -> None:
    assert Shares(Limits(descriptors=1, readers=1, connections=1)).shortage() is None


def test_a_booking_ends_with_its_block() -> None:
    given_back: list[int] = []
    with Booking(lambda: given_back.append(1)):
        assert given_back == []
    assert given_back == [1]
