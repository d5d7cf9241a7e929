"""Large mappings get and lose their pages while other threads run."""

import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.processes import LIMIT_S

from zbuf.shared.errors import Refused
from zbuf.shared.memory.layout import Layout
from zbuf.shared.memory.mapped import put_in, take_out
from zbuf.shared.memory.segment import Segment, producer_lives

LARGE = 64 << 20


@contextmanager
def ticking() -> Iterator[list[int]]:
    """Another thread of Python's, and how often it ran."""
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.0002):
            ticks[0] += 1

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield ticks
    finally:
        done.set()
        thread.join()


def resident_bytes() -> int:
    """How much shared memory this process has in place."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("RssShmem"))
    return int(line.split()[1]) << 10


def test_other_threads_run_while_a_mapping_gets_its_pages() -> None:
    with mmap.mmap(-1, LARGE) as memory, ticking() as ticks:
        before, resident = ticks[0], resident_bytes()
        put_in(memory)
        assert ticks[0] > before + 2
        assert resident_bytes() >= resident + LARGE


def test_pages_keep_their_bytes_while_they_are_out() -> None:
    with mmap.mmap(-1, LARGE) as memory:
        put_in(memory)
        resident = resident_bytes()
        memory[LARGE - 5 :] = b"bytes"
        take_out(memory)
        assert resident_bytes() <= resident - LARGE
        assert memory[LARGE - 5 :] == b"bytes"


@pytest.fixture
def layout(producer_name: str) -> Layout:
    return Layout(producer_name, "1", 1, LARGE // 2, 0, 65535)


def test_a_segment_that_is_discarded_is_gone_at_once_and_unmapped_soon(layout: Layout) -> None:
    segment = Segment(layout, b"")
    fd = segment.reader_fd()
    segment.discard()
    assert not producer_lives(fd)
    assert not Path("/dev/shm", segment.name[1:]).exists()
    limit_s = time.monotonic() + LIMIT_S
    while not segment.map.closed:
        assert time.monotonic() < limit_s


def test_reserving_memory_is_given_up_where_nobody_wants_it_any_more(layout: Layout) -> None:
    calls = [0]

    def check() -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise Refused("nobody waits")

    with pytest.raises(Refused, match="nobody waits"):
        Segment(layout, b"", check)
    assert not list(Path("/dev/shm").glob(f"zbuf.{layout.producer}.*"))
