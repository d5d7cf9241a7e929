"""A producer that hangs up, or answers with rubbish: the client says so and leaves nothing open."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_producer import FakeProducer
from support.processes import LIMIT_S, open_fds

from zbuf.consumer import Reader, connect
from zbuf.shared.errors import ControlError, SegmentError


@pytest.fixture
def fake(producer_name: str, run_dir: Path) -> Iterator[FakeProducer]:
    """A producer that does what a test wants."""
    with contextlib.closing(FakeProducer(producer_name, run_dir)) as producer:
        yield producer


def connect_to(fake: FakeProducer, raw: bytes | None = None) -> Reader:
    """connect(), while the fake serves."""
    thread = threading.Thread(target=fake.serve, args=(raw,))
    thread.start()
    try:
        return connect(str(fake.answer["producer"]), timeout_ms=0)
    finally:
        thread.join(LIMIT_S)


@pytest.mark.slow
def test_end_is_evicted_when_the_producer_hangs_up_and_lives(fake: FakeProducer) -> None:
    with connect_to(fake) as reader:  # it takes seconds to believe that this is no death
        os.close(fake.doorbell)
        fake.doorbell = -1
        assert reader.next_buffer(LIMIT_S) is None
        assert reader.end_reason == "evicted"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "closed the connection"),
        (b"{", "malformed answer"),
        (b"[]", "malformed answer"),
        (b'{"type":"connected"}', "malformed answer"),
        (b'{"type":"done"}', "answer to connect: done with 3 file descriptors: is this a zbuf producer"),
        (b'{"type":"refusal","reason":"not you"}', "not you"),
        (b"\xff\xfe", "malformed answer"),
        (b"[" * 60_000, "malformed answer"),
    ],
)
def test_answer_that_is_none_is_refused_and_its_descriptors_are_closed(
    fake: FakeProducer, raw: bytes, message: str
) -> None:
    gc.collect()
    before = open_fds()
    with pytest.raises(ControlError, match=message) as refused:
        connect_to(fake, raw)
    assert "\n" not in str(refused.value)
    assert open_fds() - before == 1  # the fake's own end of the connection


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_answer_with_too_few_descriptors_is_refused(fake: FakeProducer, keep: int) -> None:
    for fd in fake.fds[keep:]:
        if fd not in (fake.ack_fd, fake.bell):
            os.close(fd)
    fake.fds = fake.fds[:keep]
    gc.collect()
    before = open_fds()
    with pytest.raises(ControlError, match=f"answer to connect: connected with {keep} file descriptors"):
        connect_to(fake)
    assert open_fds() - before == 1


def test_answer_with_too_many_descriptors_leaves_none_of_them_open(fake: FakeProducer) -> None:
    fake.fds += [os.dup(fake.ack_fd) for _ in range(5)]
    gc.collect()
    before = open_fds()
    with contextlib.suppress(ControlError):
        connect_to(fake).close()
    gc.collect()
    assert open_fds() - before == 1


def test_segment_of_another_abi_is_refused_with_both_numbers(fake: FakeProducer) -> None:
    fake.segment.map[8:12] = (99).to_bytes(4, "little")
    with pytest.raises(SegmentError, match="segment of ABI 99, this is ABI 2: use the same version"):
        connect_to(fake)


def test_segment_that_is_foreign_is_refused(fake: FakeProducer) -> None:
    fake.segment.map[0:8] = b"ELEPHANT"
    with pytest.raises(SegmentError, match="foreign segment: it begins with b'ELEPHANT'"):
        connect_to(fake)


def test_segment_of_another_producer_is_refused(fake: FakeProducer) -> None:
    fake.segment.map[256:264] = b"another\0"
    with pytest.raises(SegmentError, match=r"foreign segment: it is 'another''s, where '.*' answered"):
        connect_to(fake)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_descriptor_of_the_wrong_kind_is_refused_in_good_order(fake: FakeProducer, which: int, tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"short")
    wrong = os.open(tmp_path / "short", os.O_RDONLY)
    kept, fake.fds[which] = fake.fds[which], wrong
    gc.collect()
    before = open_fds()
    with pytest.raises(SegmentError):
        connect_to(fake)
    gc.collect()
    assert open_fds() - before == 1
    if kept not in (fake.ack_fd, fake.bell):
        os.close(kept)
