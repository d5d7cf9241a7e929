"""Segments and ack pages: made, mapped, checked, removed, and told apart from those that a killed producer left."""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import SegmentError, ValueRefused
from zbuf.shared.memory.layout import (
    ABI,
    ACK_BYTES,
    HEADER_BYTES,
    MAX_BUFFER_BYTES,
    PAGE_BYTES,
    Layout,
    check_buffer_bytes,
    read_layout,
    read_ledger,
    unread_blocks,
)
from zbuf.shared.memory.leftovers import leftovers
from zbuf.shared.memory.reader_pages import make_ack_page, map_ack_page
from zbuf.shared.memory.segment import Segment, check_space, map_segment, producer_lives

SHM = Path("/dev/shm")
PROLOGUE = b"not looked at here"
EPOCH = 0x0123456789ABCDEF

Start = Callable[..., "subprocess.Popen[str]"]
Make = Callable[..., Segment]


def layout_of(producer: str, descriptor: str = "0", prologue_bytes: int = len(PROLOGUE)) -> Layout:
    return Layout(producer, descriptor, EPOCH, PAGE_BYTES, prologue_bytes, 1500)


@pytest.fixture
def make(producer_name: str) -> Iterator[Make]:
    """make(...): a segment of this test's own, which is OPEN unless told otherwise, and is removed after the test."""
    with contextlib.ExitStack() as cleaning:

        def make_segment(*, state: str = "open", name: str = producer_name, descriptor: str = "0") -> Segment:
            segment = Segment(layout_of(name, descriptor), PROLOGUE)
            cleaning.callback(segment.map.close)
            cleaning.callback(segment.remove)
            if state != "forming":
                segment.open()
            if state == "closed":
                owner = Descriptor()
                owner.set_buffers(segment.map, *segment.layout.buffer_offsets, PAGE_BYTES)
                owner.close()
            return segment

        yield make_segment


@contextlib.contextmanager
def reader_fd(segment: Segment) -> Iterator[int]:
    fd = segment.reader_fd()
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def path_of(segment: Segment) -> Path:
    return SHM / segment.name.removeprefix("/")


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


# ---- making ---------------------------------------------------------------------------------------------------------


def test_segment_is_named_after_its_producer_and_descriptor(make: Make, producer_name: str) -> None:
    segment = make(descriptor="17")
    assert path_of(segment) == SHM / f"zbuf.{producer_name}.17"
    assert path_of(segment).exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_segment_is_readable_by_nobody_else_whatever_the_umask(make: Make, umask: int) -> None:
    before = os.umask(umask)
    try:
        mode = path_of(make()).stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_IMODE(mode) == 0o600


def test_memory_of_a_segment_is_reserved_when_it_is_made(make: Make) -> None:
    segment = make(state="forming")
    status = path_of(segment).stat()
    assert status.st_size == segment.layout.segment_bytes == 4 * PAGE_BYTES
    assert status.st_blocks * 512 == status.st_size


def test_second_segment_of_a_name_is_refused_and_the_first_stays(make: Make) -> None:
    segment = make()
    files = open_files()
    with pytest.raises(FileExistsError, match=re.escape(segment.name)):
        make()
    assert open_files() == files
    assert path_of(segment).exists()
    with reader_fd(segment) as fd:
        assert producer_lives(fd)


def test_full_shared_memory_is_an_error_at_creation_and_leaves_nothing(producer_name: str) -> None:
    room = os.statvfs(SHM)
    if room.f_blocks == 0:
        pytest.skip("/dev/shm has no limit")
    too_much = room.f_blocks * room.f_frsize
    files = open_files()
    with (
        little_address_space(),
        pytest.raises(SegmentError, match=r"two buffers need \d+ bytes of shared memory, /dev/shm has \d+ free"),
    ):
        Segment(layout_of(producer_name, prologue_bytes=too_much), b"")
    assert not (SHM / f"zbuf.{producer_name}.0").exists()
    assert open_files() == files


@contextlib.contextmanager
def little_address_space() -> Iterator[None]:
    """Let no broken code fill this machine's memory: mappings of more than a gigabyte fail here."""
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + 2**30, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_memory_that_can_t_be_reserved_is_told_from_memory_that_is_full(
    producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse)  # no /dev/shm of this machine does that
    with pytest.raises(SegmentError, match=rf"segment /zbuf\.{producer_name}\.0: .*not supported"):
        Segment(layout_of(producer_name), PROLOGUE)
    assert not (SHM / f"zbuf.{producer_name}.0").exists()


def test_prologue_that_is_longer_than_its_room_is_refused_and_leaves_nothing(producer_name: str) -> None:
    files = open_files()
    with pytest.raises(ValueRefused, match=f"{5 * PAGE_BYTES} bytes"):
        Segment(layout_of(producer_name), bytes(5 * PAGE_BYTES))
    assert not (SHM / f"zbuf.{producer_name}.0").exists()
    assert open_files() == files


@pytest.mark.parametrize("free", [0, 1, 2])
def test_segment_that_runs_out_of_file_descriptors_leaves_nothing(producer_name: str, free: int) -> None:
    files = open_files()
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + free, hard))
    try:
        with pytest.raises((SegmentError, OSError), match=r"open files|files open"):
            Segment(layout_of(producer_name), PROLOGUE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not (SHM / f"zbuf.{producer_name}.0").exists()
    assert open_files() == files


@pytest.mark.parametrize("size", [0, -PAGE_BYTES, 1, PAGE_BYTES - 1, PAGE_BYTES + 4, MAX_BUFFER_BYTES + PAGE_BYTES])
def test_buffer_sizes_that_break_the_rules_are_refused(size: int) -> None:
    with pytest.raises(ValueRefused, match=rf"buffer size {size}\b"):
        Layout("lab", "0", EPOCH, size, 0, 1500)


@pytest.mark.parametrize("size", [PAGE_BYTES, 3 * PAGE_BYTES, MAX_BUFFER_BYTES])
def test_buffer_sizes_within_the_rules_are_accepted(size: int) -> None:
    check_buffer_bytes(size)
    assert Layout("lab", "0", EPOCH, size, 1, 1500).segment_bytes == 2 * PAGE_BYTES + 2 * size


def test_space_is_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(SHM)
    free_blocks = 2 * 16 * PAGE_BYTES // real.f_frsize
    fields = [*real]
    fields[4] = free_blocks  # f_bavail
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))  # nobody's /dev/shm is filled up
    check_space(16 * PAGE_BYTES)
    with pytest.raises(SegmentError, match=f"two buffers need {34 * PAGE_BYTES} bytes .* {32 * PAGE_BYTES} free"):
        check_space(17 * PAGE_BYTES)
    with pytest.raises(ValueRefused, match="buffer size 1 "):
        check_space(1)


# ---- mapping --------------------------------------------------------------------------------------------------------


def test_reader_finds_the_layout_and_the_prologue_that_the_producer_wrote(make: Make, producer_name: str) -> None:
    segment = make()
    with reader_fd(segment) as fd:
        memory, found = map_segment(fd)
    with memory:
        assert (found.producer, found.descriptor, found.epoch) == (producer_name, "0", EPOCH)
        assert (found.snaplen, found.state) == (1500, 1)
        assert found.buffer_offsets == (2 * PAGE_BYTES, 3 * PAGE_BYTES)
        assert (found.buffer_bytes, found.segment_bytes) == (PAGE_BYTES, 4 * PAGE_BYTES)
        assert memory[found.prologue_offset : found.prologue_offset + found.prologue_bytes] == PROLOGUE


def test_reader_sees_what_the_producer_writes_after_it_attached(make: Make) -> None:
    segment = make()
    with reader_fd(segment) as fd:
        memory, found = map_segment(fd)
    with memory:
        segment.map[found.buffer_offsets[1] + HEADER_BYTES] = 0x5A
        assert memory[found.buffer_offsets[1] + HEADER_BYTES] == 0x5A


def test_reader_can_t_map_the_segment_writable(make: Make) -> None:
    with reader_fd(make()) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises(PermissionError):
            mmap.mmap(fd, PAGE_BYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def test_reader_s_mapping_is_read_only(make: Make) -> None:
    with reader_fd(make()) as fd:
        memory, _ = map_segment(fd)
    with memory, pytest.raises(TypeError, match="readonly"):
        memory[0] = 0


def test_reader_can_t_resize_or_write_the_segment(make: Make) -> None:
    with reader_fd(make()) as fd:
        with pytest.raises(OSError, match="Invalid argument"):
            os.ftruncate(fd, 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"!", 0)


@pytest.mark.parametrize("still_there", [True, False])
def test_reader_can_t_take_the_write_lock(make: Make, still_there: bool) -> None:
    segment = make()
    with reader_fd(segment) as fd:
        if not still_there:
            segment.remove()
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        assert producer_lives(fd) is still_there


def test_read_lock_that_a_reader_takes_is_not_taken_for_a_living_producer(make: Make) -> None:
    segment = make()
    with reader_fd(segment) as fd, opened(path_of(segment)) as other_fd:
        segment.remove()
        lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        assert not producer_lives(other_fd)


# ---- removing -------------------------------------------------------------------------------------------------------


def test_removed_segment_lives_on_in_its_mappings(make: Make) -> None:
    segment = make()
    with reader_fd(segment) as fd:
        memory, _ = map_segment(fd)
    segment.remove()
    assert not path_of(segment).exists()
    with memory:
        segment.map[PAGE_BYTES] = 0x5A
        assert memory[PAGE_BYTES] == 0x5A


def test_removed_segment_gives_its_lock_up_though_it_is_mapped(make: Make) -> None:
    segment = make()
    with reader_fd(segment) as fd:
        assert producer_lives(fd)
        segment.remove()
        assert not producer_lives(fd)


def test_removing_twice_leaves_another_segment_of_that_name_alone(make: Make) -> None:
    segment = make()
    files = open_files()
    segment.remove()
    segment.remove()
    assert len(open_files()) == len(files) - 1
    assert not path_of(segment).exists()


def test_name_is_free_again_after_removal(make: Make) -> None:
    make().remove()
    assert path_of(make()).exists()


# ---- the producer's life --------------------------------------------------------------------------------------------

HOLDER = """
    import sys
    from zbuf.shared.memory.layout import Layout
    from zbuf.shared.memory.segment import Segment

    segment = Segment(Layout(sys.argv[1], "0", 1, 4096, 4, 1500), b"abcd")
    segment.open()
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_producer_lives_until_it_is_killed(start: Start, producer_name: str) -> None:
    process = start(HOLDER, producer_name)
    with opened(SHM / f"zbuf.{producer_name}.0") as fd:
        assert producer_lives(fd)
        process.kill()
        process.wait()
        assert not producer_lives(fd)


def test_producer_lives_until_it_ends_without_a_word(start: Start, producer_name: str) -> None:
    process = start(HOLDER, producer_name)
    with opened(SHM / f"zbuf.{producer_name}.0") as fd:
        assert producer_lives(fd)
        process.communicate()
        assert not producer_lives(fd)


def test_looking_at_a_producer_s_life_does_not_end_it(start: Start, producer_name: str) -> None:
    start(HOLDER, producer_name)
    for _ in range(3):
        with opened(SHM / f"zbuf.{producer_name}.0") as fd:
            assert producer_lives(fd)


# ---- ack pages ------------------------------------------------------------------------------------------------------


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


# ---- half-made, foreign and damaged segments ------------------------------------------------------------------------

OFFSETS = {  # of the fields on page 0: (offset, struct format)
    "magic": (0, "8s"),
    "abi": (8, "<I"),
    "state": (12, "<I"),
    "segment_bytes": (24, "<Q"),
    "prologue_offset": (32, "<Q"),
    "prologue_bytes": (40, "<Q"),
    "first": (48, "<Q"),
    "second": (56, "<Q"),
    "buffer_bytes": (64, "<Q"),
    "prologue_room": (72, "<Q"),
}
SEGMENT_BYTES = 4 * PAGE_BYTES  # page 0, the prologue's, and two buffers of a page


def image(**changes: object) -> bytearray:
    """A segment as it lies in memory, with some fields of its page 0 changed."""
    good = {
        "magic": b"ZBUF\r\n\x1a\n",
        "abi": ABI,
        "state": 1,
        "segment_bytes": SEGMENT_BYTES,
        "prologue_offset": PAGE_BYTES,
        "prologue_bytes": 100,
        "prologue_room": PAGE_BYTES,
        "first": 2 * PAGE_BYTES,
        "second": 3 * PAGE_BYTES,
        "buffer_bytes": PAGE_BYTES,
    }
    page = bytearray(SEGMENT_BYTES)
    for field, value in {**good, **changes}.items():
        offset, form = OFFSETS[field]
        struct.pack_into(form, page, offset, value)
    return page


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


# ---- what killed producers leave ------------------------------------------------------------------------------------

# Appends packets to a real descriptor, 30 of them to a buffer, and acknowledges buffers as its one reader; both as the
# arguments say: "+45" appends 45 packets, "-A" acknowledges buffer A, "close" closes.  A packet's time is its number.
APPENDER = """
    import mmap, struct, sys
    from zbuf.producer.ring.descriptor import Descriptor
    from zbuf.shared.memory.layout import Layout
    from zbuf.shared.memory.reader_pages import make_ack_page
    from zbuf.shared.memory.segment import Segment

    segment = Segment(Layout(sys.argv[1], "0", 1, 4096, 4, 1500), b"abcd")
    descriptor = Descriptor()
    descriptor.set_buffers(segment.map, *segment.layout.buffer_offsets, 4096)
    ack_fd, ack_page = make_ack_page()
    descriptor.add_reader(1, ack_page, -1)
    segment.open()
    number = 0
    for step in sys.argv[2:]:
        if step[0] == "-":
            which = "AB".index(step[1])
            struct.pack_into("<I", ack_page, 4 * which, descriptor.slots()["generations"][which])
            descriptor.ledger()
        elif step == "close":
            descriptor.close()
        else:
            for number in range(number, number + int(step)):
                descriptor.append_bytes(bytes(100), time_ns=number)
            number += 1
    print("ready", flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Story:
    """What a producer did before it was killed, and the numbers of the packets that its readers have not had."""

    steps: str
    unread: list[int]


STORIES = {
    "nothing": Story("", []),
    "a part of a store": Story("+17", [*range(17)]),
    "exactly one buffer": Story("+30", [*range(30)]),
    "one assigned, a part of the other": Story("+45", [*range(45)]),
    "both assigned, the rest dropped": Story("+100", [*range(60)]),
    "one acknowledged, a part of the other": Story("+45 -A", [*range(30, 45)]),
    "one acknowledged, filled and assigned again": Story("+45 -A +40", [*range(30, 85)]),
    "a store behind an older generation of it": Story("+45 -A +20", [*range(30, 65)]),
    "all acknowledged": Story("+31 -A +29 +1 -B", [60]),
    "B before A, both assigned": Story("+45 -A +100", [*range(30, 90)]),
    "closed, and its readers still at it": Story("+45 close", [*range(45)]),
}


@pytest.fixture
def killed(start: Start, producer_name: str) -> Callable[[Story], str]:
    """killed(story): the name of a producer that did this and was killed."""

    def tell(story: Story) -> str:
        process = start(APPENDER, producer_name, *story.steps.split())
        process.kill()
        process.wait()
        return producer_name

    return tell


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES.keys())
def test_what_a_killed_producer_left_is_counted_and_read_in_order(killed: Callable[[Story], str], story: Story) -> None:
    name = killed(story)
    assert [(left.name, left.packets) for left in leftovers(name)] == [(f"/zbuf.{name}.0", len(story.unread))]
    with opened(SHM / f"zbuf.{name}.0") as fd:
        memory, layout = map_segment(fd, closed_too=True)
    with memory:
        parts = unread_blocks(memory, layout)
        assert [number for part in parts for number in packet_numbers(memory, *part[:4])] == story.unread


def packet_numbers(memory: mmap.mmap, offset: int, length_bytes: int, packets: int, damaged: int) -> list[int]:
    assert damaged == 0
    numbers = []
    end = offset + length_bytes
    while offset < end:
        kind, total, _interface, high, low, caplen = struct.unpack_from("<6I", memory, offset)
        assert (kind, caplen) == (6, 100)
        numbers.append(high << 32 | low)
        offset += total
    assert (offset, len(numbers)) == (end, packets)
    return numbers


def test_damaged_blocks_of_a_killed_producer_end_what_is_read(killed: Callable[[Story], str]) -> None:
    name = killed(Story("+17", []))
    path = SHM / f"zbuf.{name}.0"
    memory = bytearray(path.read_bytes())
    layout = read_layout(memory)
    blocks, block_bytes = layout.buffer_offsets[0] + HEADER_BYTES, 32 + 100
    memory[blocks + 5 * block_bytes + 4] ^= 1
    assert unread_blocks(memory, layout) == [(blocks, 5 * block_bytes, 5, 12 * block_bytes, 0)]


@pytest.mark.parametrize("length", [PAGE_BYTES - HEADER_BYTES + 4, 2**31, 2**32 - 4, 2**32 - 1])
@pytest.mark.parametrize("field", [4, 64], ids=["kernel_len", "store_len"])
def test_lengths_that_a_damaged_header_gives_stay_inside_the_buffer(field: int, length: int) -> None:
    memory = image()
    header, room = 2 * PAGE_BYTES, PAGE_BYTES - HEADER_BYTES
    for at in range(header + HEADER_BYTES, SEGMENT_BYTES, 32):  # behind the buffer too, where it goes on in blocks
        struct.pack_into("<8I", memory, at, 6, 32, 6, 0, 0, 0, 0, 32)
    struct.pack_into("<4I", memory, header, 1, length, 0 if field == 4 else 1, 0)
    struct.pack_into("<Q", memory, header + 64, 2 << 32 | length)
    assert unread_blocks(memory, read_layout(memory)) == [(header + HEADER_BYTES, room, room // 32, 0, 0)]


def test_living_producer_s_segment_is_passed_over(start: Start, producer_name: str) -> None:
    process = start(APPENDER, producer_name, "+17")
    assert list(leftovers(producer_name)) == []
    process.kill()
    process.wait()
    assert [left.packets for left in leftovers(producer_name)] == [17]


def test_every_descriptor_of_a_killed_producer_is_found(start: Start, producer_name: str) -> None:
    program = """
        import sys
        from zbuf.shared.memory.layout import Layout
        from zbuf.shared.memory.segment import Segment

        segments = [Segment(Layout(sys.argv[1], str(n), 1, 4096, 4, 1500), b"abcd") for n in (0, 3, 12)]
        print("ready", flush=True)
        sys.stdin.read()
    """
    process = start(program, producer_name)
    process.kill()
    process.wait()
    names = sorted(left.name for left in leftovers(producer_name))
    assert names == sorted(f"/zbuf.{producer_name}.{number}" for number in (0, 3, 12))


def test_leftovers_of_other_names_are_not_touched(start: Start, producer_name: str) -> None:
    # "lab.1" is a producer's name, and its descriptor 0 is not one of the producer "lab"
    others = [f"{producer_name}.1", f"{producer_name}0", producer_name.replace(".", "x"), f"{producer_name}+"]
    processes = [start(HOLDER, name) for name in [producer_name, *others]]
    strange = [SHM / f"zbuf.{producer_name}.{suffix}" for suffix in ("", "0.old", "x", "-1", "٣")]
    try:
        for path in strange:
            path.touch()
        for process in processes:
            process.kill()
            process.wait()
        for left in leftovers(producer_name):
            assert left.name == f"/zbuf.{producer_name}.0"
            left.remove()
        assert not (SHM / f"zbuf.{producer_name}.0").exists()
        assert all((SHM / f"zbuf.{name}.0").exists() for name in others)
        assert all(path.exists() for path in strange)
        assert [left.name for left in leftovers(others[0])] == [f"/zbuf.{others[0]}.0"]
    finally:
        for path in [*strange, *(SHM / f"zbuf.{name}.0" for name in others)]:
            path.unlink(missing_ok=True)


def test_removing_a_leftover_that_is_gone_does_nothing(start: Start, producer_name: str) -> None:
    process = start(HOLDER, producer_name)
    process.kill()
    process.wait()
    (left,) = leftovers(producer_name)
    left.remove()
    left.remove()
    assert list(leftovers(producer_name)) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"?", bytes(PAGE_BYTES), b"#!/bin/sh\n" * 1000, image(abi=9), image(state=0), image(second=0)],
    ids=["empty", "short", "without a header", "foreign", "other ABI", "forming", "corrupt"],
)
def test_half_made_segment_is_a_leftover_without_packets(producer_name: str, content: bytes) -> None:
    path = SHM / f"zbuf.{producer_name}.0"
    path.write_bytes(content)
    assert [(left.name, left.packets) for left in leftovers(producer_name)] == [(f"/{path.name}", 0)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_segment_of_another_user_is_not_a_leftover(producer_name: str) -> None:
    path = SHM / f"zbuf.{producer_name}.0"
    path.write_bytes(image())
    assert len(list(leftovers(producer_name))) == 1
    os.chown(path, 54321, 54321)
    assert list(leftovers(producer_name)) == []
