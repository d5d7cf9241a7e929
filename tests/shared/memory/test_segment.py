"""Segments: made, mapped, removed, and known to be a living producer's or not."""

import contextlib
import errno
import fcntl
import mmap
import os
import re
import resource
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.segments import (
    EPOCH,
    HOLDER,
    PROLOGUE,
    SHM,
    Make,
    Start,
    layout_of,
    open_files,
    opened,
    path_of,
    reader_fd,
    segment_maker,
)

from zbuf.shared.errors import SegmentError, ValueRefused
from zbuf.shared.memory.layout import (
    HEADER_BYTES,
    MAX_BUFFER_BYTES,
    PAGE_BYTES,
    Layout,
    check_buffer_bytes,
)
from zbuf.shared.memory.segment import Segment, check_space, map_segment, producer_lives


@pytest.fixture
def make(producer_name: str) -> Iterator[Make]:
    with segment_maker(producer_name) as make:
        yield make


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
    with pytest.raises(ValueRefused, match="buffer size 0"):
        check_space(0)


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
