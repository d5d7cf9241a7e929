"""Ack pages: a reader writes to its own, and can change nothing about it."""

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest

from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import (
    ACK_BYTES,
)
from zbuf.shared.memory.reader_pages import make_ack_page, map_ack_page


@pytest.fixture
def ack_page() -> Iterator[tuple[int, mmap.mmap]]:
    fd, memory = make_ack_page()
    with memory:
        yield fd, memory
    os.close(fd)


@pytest.mark.parametrize("size", [0, ACK_BYTES - 1, ACK_BYTES + 1, 2 * ACK_BYTES])
def test_ack_page_can_t_be_resized_by_its_reader(ack_page: tuple[int, mmap.mmap], size: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ack_page[0], size)
    assert os.fstat(ack_page[0]).st_size == ACK_BYTES


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK])
def test_ack_page_takes_no_more_seals(ack_page: tuple[int, mmap.mmap], seal: int) -> None:
    with pytest.raises(PermissionError):
        fcntl.fcntl(ack_page[0], fcntl.F_ADD_SEALS, seal)
    assert fcntl.fcntl(ack_page[0], fcntl.F_GET_SEALS) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def test_producer_sees_what_a_reader_writes_into_its_ack_page(ack_page: tuple[int, mmap.mmap]) -> None:
    fd, memory = ack_page
    assert memory[:] == bytes(ACK_BYTES)
    with map_ack_page(fd) as reader_s:
        reader_s[4] = 0x5A
        assert memory[4] == 0x5A


def test_ack_page_is_not_inherited_by_programs_that_are_started(ack_page: tuple[int, mmap.mmap]) -> None:
    assert not os.get_inheritable(ack_page[0])


@pytest.mark.parametrize("size", [0, 64, ACK_BYTES - 1])
def test_ack_page_that_is_too_short_is_refused(size: int) -> None:
    fd = os.memfd_create("short")
    try:
        os.ftruncate(fd, size)
        with pytest.raises(SegmentError, match=f"ack page of {size} bytes: {ACK_BYTES} needed"):
            map_ack_page(fd)
    finally:
        os.close(fd)
