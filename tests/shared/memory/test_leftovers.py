"""What killed producers leave: found, counted, and told from everything else."""

import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.segments import HOLDER, SEGMENT_BYTES, SHM, Start, image, opened

from zbuf.shared.memory.layout import (
    HEADER_BYTES,
    PAGE_BYTES,
    read_layout,
    unread_blocks,
)
from zbuf.shared.memory.leftovers import Found, leftovers
from zbuf.shared.memory.segment import map_segment

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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could open what is another user's")
def test_root_s_start_opens_nothing_that_another_user_has_planted(
    producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SHM / f"zbuf.{producer_name}.7"
    path.write_bytes(image())
    assert [one.descriptor for one in leftovers(producer_name)] == [7]
    os.chown(path, 54321, -1)
    monkeypatch.setattr(Found, "open", lambda self: pytest.fail(f"{self.path} is opened"))
    assert list(leftovers(producer_name)) == []
