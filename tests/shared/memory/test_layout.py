"""Page 0 of a segment: half-made, foreign and damaged ones are named, and nothing outside is ever read."""

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.segments import OFFSETS, SEGMENT_BYTES, Make, image, open_files, reader_fd, segment_maker

from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import (
    ABI,
    MAX_BUFFER_BYTES,
    PAGE_BYTES,
    read_layout,
    read_ledger,
)
from zbuf.shared.memory.segment import map_segment


@pytest.fixture
def make(producer_name: str) -> Iterator[Make]:
    with segment_maker(producer_name) as make:
        yield make


@contextlib.contextmanager
def file_of(content: bytes | bytearray) -> Iterator[int]:
    fd = os.memfd_create("image")
    try:
        assert os.pwrite(fd, content, 0) == len(content)
        yield fd
    finally:
        os.close(fd)


def test_image_of_a_segment_is_accepted_as_it_is() -> None:
    with file_of(image()) as fd:
        memory, layout = map_segment(fd)
    with memory:
        assert (layout.prologue_offset, layout.prologue_bytes) == (PAGE_BYTES, 100)
        assert (layout.buffer_offsets, layout.buffer_bytes) == ((2 * PAGE_BYTES, 3 * PAGE_BYTES), PAGE_BYTES)


@pytest.mark.parametrize("size", [0, 1, 8, 12, 383, 384, PAGE_BYTES - 1])
def test_segment_that_is_too_short_is_named(size: int) -> None:
    with file_of(image()[:size]) as fd, pytest.raises(SegmentError, match=rf"segment of {size} bytes: .* died"):
        map_segment(fd)


@pytest.mark.parametrize("size", [PAGE_BYTES, 2 * PAGE_BYTES, SEGMENT_BYTES - 1])
def test_segment_that_was_cut_short_is_named(size: int) -> None:
    with (
        file_of(image()[:size]) as fd,
        pytest.raises(SegmentError, match=f"segment cut short: {size} bytes of {SEGMENT_BYTES}"),
    ):
        map_segment(fd)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": bytes(8)}, "segment without a header: its producer is still making it, or died"),
        ({"magic": b"\x7fELF\2\1\1\0"}, "foreign segment: it begins with .*ELF"),
        ({"magic": b"ZBUF\n\x1a\n\0"}, "foreign segment"),  # a copy in text mode
        ({"magic": b"ZBUF\r\n\x1a\r"}, "foreign segment"),
        ({"abi": 0}, "segment of ABI 0, this is ABI 2: use the same version"),
        ({"abi": ABI + 1}, "segment of ABI 3, this is ABI 2: use the same version"),
        ({"abi": ABI << 24}, "segment of ABI 33554432, this is ABI 2"),  # as on a big-endian machine
        ({"state": 0}, "segment not open yet: its producer is still making it, or died"),
        ({"state": 2}, "segment closed: its producer has ended"),
        ({"state": 3}, "segment closed: its producer has ended"),
        ({"state": 4}, "segment closed: its producer has ended"),
        ({"state": 5}, "segment in unknown state 5"),
        ({"state": 2**32 - 1}, "segment in unknown state 4294967295"),
    ],
)
def test_half_made_and_foreign_segments_are_named(changes: dict[str, object], message: str) -> None:
    with file_of(image(**changes)) as fd:
        files = open_files()
        with pytest.raises(SegmentError, match=message) as _kept:
            map_segment(fd)
        assert open_files() == files  # nothing stays mapped, though the error is kept


@pytest.mark.parametrize(
    "changes",
    [
        {"prologue_offset": 0},
        {"prologue_offset": PAGE_BYTES - 1},
        {"prologue_offset": SEGMENT_BYTES},
        {"prologue_offset": SEGMENT_BYTES + 1, "prologue_bytes": 0},
        {"prologue_offset": 2**64 - 1, "prologue_bytes": 2},
        {"prologue_offset": 2**63},
        {"prologue_bytes": PAGE_BYTES + 1},  # more than its room
        {"prologue_room": SEGMENT_BYTES - PAGE_BYTES + 1},
        {"prologue_room": 2**64 - PAGE_BYTES},
        {"prologue_bytes": 2**64 - 1},
        {"prologue_bytes": 2**64 - PAGE_BYTES},  # offset + length is 0
        {"buffer_bytes": 0},
        {"buffer_bytes": 1},
        {"buffer_bytes": PAGE_BYTES - 4},
        {"buffer_bytes": PAGE_BYTES + 4},
        {"buffer_bytes": 2 * PAGE_BYTES},  # A runs into B, and B past the end
        {"buffer_bytes": MAX_BUFFER_BYTES + PAGE_BYTES},
        {"buffer_bytes": 2**64 - PAGE_BYTES},
        {"first": 0},
        {"first": PAGE_BYTES - 4},
        {"first": 2 * PAGE_BYTES - 128},
        {"first": 2 * PAGE_BYTES + 1},
        {"first": SEGMENT_BYTES},
        {"first": 2**64 - PAGE_BYTES},
        {"second": 0},
        {"second": 3 * PAGE_BYTES + 4},
        {"second": SEGMENT_BYTES},
        {"second": SEGMENT_BYTES + PAGE_BYTES},
        {"second": 2**64 - PAGE_BYTES},
        {"first": 3 * PAGE_BYTES},  # one and the same
        {"first": 3 * PAGE_BYTES, "second": 2 * PAGE_BYTES},  # B before A
        {"first": 0, "second": PAGE_BYTES},  # over page 0
        {"first": 2**64 - PAGE_BYTES, "second": 0},  # first + length is 0
    ],
    ids=lambda changes: ",".join(f"{field}={value}" for field, value in changes.items()),
)
def test_parts_outside_the_segment_are_found(changes: dict[str, object]) -> None:
    with file_of(image(**changes)) as fd, pytest.raises(SegmentError, match=r"corrupt segment: (prologue|buffers) of"):
        map_segment(fd)


@pytest.mark.parametrize("changes", [{"first": 2 * PAGE_BYTES + 4}, {"second": 4 * PAGE_BYTES - 4}])
def test_buffers_that_are_not_aligned_are_found_though_they_are_inside(changes: dict[str, object]) -> None:
    roomy = {"second": 4 * PAGE_BYTES}  # a page between A and B, and one behind
    content = image(**{**roomy, **changes}) + bytes(3 * PAGE_BYTES)
    with file_of(content) as fd, pytest.raises(SegmentError, match="corrupt segment: buffers of 4096 bytes at"):
        map_segment(fd)


@pytest.mark.parametrize("more", [0, PAGE_BYTES])
def test_buffers_are_as_large_as_the_maximum_and_no_larger(more: int) -> None:
    size, first = MAX_BUFFER_BYTES + more, 2 * PAGE_BYTES
    with file_of(image(buffer_bytes=size, second=first + size)) as fd:
        os.truncate(fd, first + 2 * size)  # sparse
        if more:
            with pytest.raises(SegmentError, match=f"corrupt segment: buffers of {size} bytes"):
                map_segment(fd)
        else:
            memory, layout = map_segment(fd)
            memory.close()
            assert layout.buffer_bytes == MAX_BUFFER_BYTES


@pytest.mark.parametrize("more", [1, PAGE_BYTES, 2**40, 2**64 - 1 - SEGMENT_BYTES])
def test_segment_that_claims_more_than_it_has_is_named(more: int) -> None:
    with (
        file_of(image(segment_bytes=SEGMENT_BYTES + more)) as fd,
        pytest.raises(SegmentError, match="segment cut short"),
    ):
        map_segment(fd)


_NEAR_EDGES = st.builds(
    lambda base, pages, off: (base + pages * PAGE_BYTES + off) % 2**64,
    st.sampled_from([0, 2**30, 2**32, 2**63]),
    st.integers(-5, 5),
    st.sampled_from([0, 0, 0, -4, -1, 1, 4]),
)


@settings(max_examples=400, derandomize=True, database=None, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(list(OFFSETS)[3:], _NEAR_EDGES | st.integers(0, 2**64 - 1))))
def test_whatever_page_0_says_the_layout_is_inside_the_mapping(changes: dict[str, int]) -> None:
    try:
        layout = read_layout(image(**changes))
    except SegmentError:
        return
    first, second = layout.buffer_offsets
    assert PAGE_BYTES <= layout.prologue_offset <= layout.prologue_offset + layout.prologue_bytes <= SEGMENT_BYTES
    assert PAGE_BYTES <= first < first + layout.buffer_bytes <= second < second + layout.buffer_bytes <= SEGMENT_BYTES
    assert first % PAGE_BYTES == second % PAGE_BYTES == layout.buffer_bytes % PAGE_BYTES == 0


def test_names_without_their_nul_end_where_their_fields_do() -> None:
    page = image()
    page[256:320], page[320:384] = b"p" * 64, b"d" * 63 + b"\xff"
    layout = read_layout(page)
    assert (layout.producer, layout.descriptor) == ("p" * 64, "d" * 63 + "\ufffd")


def test_segment_is_not_open_until_its_producer_opens_it(make: Make) -> None:
    segment = make(state="forming")
    with reader_fd(segment) as fd:
        with pytest.raises(SegmentError, match="not open yet"):
            map_segment(fd)
        segment.open()
        map_segment(fd)[0].close()


def test_closed_segment_is_mapped_by_those_who_ask_for_it(make: Make) -> None:
    with reader_fd(make(state="closed")) as fd:
        with pytest.raises(SegmentError, match="segment closed"):
            map_segment(fd)
        memory, layout = map_segment(fd, closed_too=True)
    with memory:
        assert layout.state == 4
        assert set(read_ledger(memory).values()) == {0}
