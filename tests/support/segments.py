"""Helpers of the tests of segments: segments of all kinds, images of them, and a process that holds one."""

import contextlib
import os
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.memory.layout import ABI, PAGE_BYTES, Layout
from zbuf.shared.memory.segment import Segment

SHM = Path("/dev/shm")
PROLOGUE = b"not looked at here"
EPOCH = 0x0123456789ABCDEF

Start = Callable[..., "subprocess.Popen[str]"]
Make = Callable[..., Segment]


def layout_of(producer: str, descriptor: str = "0", prologue_bytes: int = len(PROLOGUE)) -> Layout:
    return Layout(producer, descriptor, EPOCH, PAGE_BYTES, prologue_bytes, 1500)


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


@contextlib.contextmanager
def segment_maker(producer_name: str) -> Iterator[Make]:
    """make(...): a segment that is OPEN unless another state is asked for, and is removed at the end."""
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


HOLDER = """
    import sys
    from zbuf.shared.memory.layout import Layout
    from zbuf.shared.memory.segment import Segment

    segment = Segment(Layout(sys.argv[1], "0", 1, 4096, 4, 1500), b"abcd")
    segment.open()
    print("ready", flush=True)
    sys.stdin.read()
"""

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
