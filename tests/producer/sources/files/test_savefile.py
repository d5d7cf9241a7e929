"""The reader of pcap and pcapng files, beside a second one in plain Python; see support/reference.py.

Hypothesis makes files: sections, byte orders, interfaces, resolutions, options, damage. Whatever one of the two readers
makes of a file, from a disk or by a pipe in pieces, the other one must make of it: each packet with all that is known
of it, each interface, how many times saturate, and where the damage is.
"""

import contextlib
import os
import random
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support import reference
from support.reference import (
    PCAP_MAGICS,
    Face,
    Found,
    Packet,
    block,
    interface,
    old_packet,
    option,
    options_of,
    packet,
    section,
    simple_packet,
)

from zbuf.producer.sources.files.savefile import Savefile
from zbuf.shared.errors import CaptureFileError
from zbuf.shared.memory.pcapng import interface_of

CALM = settings(max_examples=200, derandomize=True, database=None, deadline=None)
PIECES = (1, 7, 64, 4096)
"""Bytes that a pipe gives at a time."""


# ---- what the reader makes of a file ---------------------------------------------------------------------------------


@dataclass
class Faces:
    """The interfaces, as a Savefile tells them."""

    found: list[tuple[int, bytes, int | None]] = field(default_factory=list)

    def add(self, index: int, *, linktype: int, block: bytes, fcs_bits: int | None) -> int:
        assert index == len(self.found)
        self.found.append((linktype, block, fcs_bits))
        return index


def in_memory(image: bytes) -> int:
    """A file with these bytes, on no disk."""
    fd = os.memfd_create("zbuf-test", os.MFD_CLOEXEC)
    os.write(fd, image) if image else None
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


@contextlib.contextmanager
def by_pipe(image: bytes, piece: int) -> Iterator[int]:
    """A pipe that gives these bytes in pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            for at in range(0, len(image), piece):
                os.write(writing, image[at : at + piece])
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield reading
    finally:
        thread.join()


def face_of(told: tuple[int, bytes, int | None], snaplen: int) -> Face:
    """An interface that was told, as the second reader tells it; of a pcap file with this snaplen."""
    linktype, described, fcs_bits = told
    if not described:
        return Face(linktype, snaplen, options=() if fcs_bits is None else ((13, bytes([fcs_bits])),))
    resolution, offset_s = 6, 0
    for code, value in options_of("<", described[16:-4]):
        if code == 9 and len(value) == 1:
            resolution = value[0]
        elif code == 14 and len(value) == 8:
            (offset_s,) = struct.unpack("<q", value)
    return Face(linktype, interface_of(described).snaplen, resolution, offset_s)


def parts_of(file: Savefile) -> Iterator[bytes | list[tuple[bytes, int, int, int, int, int, bytes]]]:
    """What a file has: batches of packets, and blocks that are passed on."""
    return iter(file.read, [])


def read(fd: int) -> Found:
    """Everything that a Savefile gives of a file; a refusal is damage before anything was found."""
    faces, found = Faces(), Found()
    try:
        file = Savefile(fd, "lab", faces)
    except CaptureFileError as refused:
        return Found(damaged_at=0) if re.fullmatch(r"lab: not a capture file: .+", str(refused)) else Found()
    with contextlib.closing(file):
        for part in parts_of(file):
            if not isinstance(part, bytes):
                found.packets += [Packet(*one[:6], tuple(options_of("<", one[6]))) for one in part]
    found.faces = [face_of(one, file.snaplen) for one in faces.found]
    found.saturated = file.saturated
    assert file.packets == len(found.packets)
    if file.damage is not None:
        told = re.fullmatch(r"lab: damaged after (\d+) whole packets, at byte (\d+): \S.*", file.damage)
        assert told is not None, file.damage
        assert int(told[1]) == len(found.packets)
        found.damaged_at = int(told[2])
    return found


def expected(image: bytes) -> Found:
    """What the second reader makes of a file, as far as read() can tell."""
    found = reference.read(image)
    if not found.faces:
        return Found(damaged_at=0)
    is_pcap = image[:4] != b"\n\r\r\n"
    is_kept = all(len(one.data) <= found.faces[0].snaplen for one in found.packets)
    found.faces = [
        Face(one.linktype, one.snaplen if is_kept else 0, options=one.options)
        if is_pcap
        else Face(one.linktype, one.snaplen, one.resolution, one.offset_s)
        for one in found.faces
    ]
    return found


def check(image: bytes, *, pieces: tuple[int, ...] = PIECES) -> Found:
    """Have both readers read a file, from memory and by pipes; returns what they agree about."""
    wanted = expected(image)
    assert read(in_memory(image)) == wanted
    for piece in pieces:
        with by_pipe(image, piece) as fd:
            assert read(fd) == wanted
    return wanted


# ---- files that hypothesis makes -------------------------------------------------------------------------------------

ORDERS = st.sampled_from("<>")
RESOLUTIONS = st.one_of(st.none(), st.sampled_from([0, 3, 6, 9, 12, 0x80, 0x89, 0x9E, 0xFF, 127]), st.integers(0, 255))
OFFSETS = st.one_of(
    st.none(), st.sampled_from([0, 1, -1, 1_600_000_000, 2**63 - 1, -(2**63)]), st.integers(-(2**40), 2**40)
)
TICKS = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1, 1_700_000_000_123_456]), st.integers(0, 2**64 - 1))
DATA = st.binary(max_size=70)


def packet_options(order: str) -> st.SearchStrategy[bytes]:
    known = st.one_of(
        st.integers(0, 2**32 - 1).map(lambda flags: option(order, 2, struct.pack(f"{order}I", flags))),
        st.integers(0, 2**64 - 1).map(lambda count: option(order, 4, struct.pack(f"{order}Q", count))),
        st.binary(max_size=9).map(lambda text: option(order, 1, text)),
        st.tuples(st.sampled_from([2, 3, 4, 5, 6, 7, 2988, 2989, 19373, 40000]), st.binary(max_size=20)).map(
            lambda pair: option(order, *pair)
        ),
    )
    return st.lists(known, max_size=4).flatmap(
        lambda some: st.sampled_from([b"".join(some), b"".join([*some, bytes(4)])])
    )


def blocks_of(order: str, interfaces: int) -> st.SearchStrategy[bytes]:
    numbers = st.integers(0, interfaces - 1 if interfaces else 0)
    others = [
        st.tuples(
            st.sampled_from([4, 5, 9, 10, 11, 0xBAD, 0x40000BAD, 0x80001234]), st.binary(min_size=12, max_size=40)
        ).map(lambda pair: block(order, *pair)),
        new_interface(order),
    ]
    packets = [
        st.builds(
            lambda *one, options: packet(*one, order=order, options=options),
            DATA, TICKS, numbers, options=packet_options(order),
        ),
        st.builds(lambda data, more: simple_packet(data, len(data) + more, order=order), DATA, st.integers(0, 3)),
        st.builds(
            lambda *one, options: old_packet(*one, order=order, options=options),
            DATA, TICKS, numbers, st.sampled_from([0, 1, 0xFFFE, 0xFFFF]), options=packet_options(order),
        ),
    ]  # fmt: skip
    return st.one_of(*packets, *packets, *others) if interfaces else st.one_of(*others)


def new_interface(order: str) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda linktype, snaplen, **options: interface(order, linktype, snaplen, **options),
        st.sampled_from([0, 1, 113, 231, 290, 65535]),
        st.sampled_from([0, 4, 65, 262144]),
        resolution=RESOLUTIONS,
        offset_s=OFFSETS,
        options=st.one_of(st.just(b""), st.binary(max_size=9).map(lambda name: option(order, 2, name))),
    )


@st.composite
def sections(draw: Any) -> bytes:
    order = draw(ORDERS)
    described = draw(st.lists(new_interface(order), max_size=3))
    body = draw(st.lists(blocks_of(order, len(described)), max_size=8))
    return section(order, minor=draw(st.sampled_from([0, 2]))) + b"".join(described) + b"".join(body)


PCAPNG = st.lists(sections(), min_size=1, max_size=3).map(b"".join)


@st.composite
def pcap_files(draw: Any) -> bytes:
    order, magic = draw(ORDERS), draw(st.sampled_from(sorted(PCAP_MAGICS)))
    _, more, head = PCAP_MAGICS[magic]
    major, minor = draw(st.sampled_from([(2, 0), (2, 2), (2, 3), (2, 4), (2, 5), (543, 0)]))
    linktype = draw(st.sampled_from([1, 6, 9, 15, 24, 113, 231, 290, 1 | 1 << 26 | 4 << 28]))
    parts = [struct.pack(f"{order}IHHiIII", magic, major, minor, 0, 0, draw(st.sampled_from([0, 68])), linktype)]
    parts.append(bytes(more))
    for _ in range(draw(st.integers(0, 6))):
        data, wirelen = draw(DATA), draw(st.integers(0, 2000))
        lengths = [len(data), wirelen]
        if (major, minor) < (2, 3) or major == 543 or ((major, minor) == (2, 3) and len(data) > wirelen):
            lengths.reverse()
        times = [draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1))]
        parts += [struct.pack(f"{order}4I", *times, *lengths), bytes(head - 16), data]
    return b"".join(parts)


@CALM
@given(PCAPNG)
def test_both_readers_make_the_same_of_a_pcapng_file(image: bytes) -> None:
    check(image, pieces=(7,))


@CALM
@given(pcap_files())
def test_both_readers_make_the_same_of_a_pcap_file(image: bytes) -> None:
    check(image, pieces=(7,))


@CALM
@given(st.one_of(PCAPNG, pcap_files()), st.data())
def test_both_readers_make_the_same_of_a_damaged_file(image: bytes, data: st.DataObject) -> None:
    broken = bytearray(image)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(broken) - 4)))
        kind = data.draw(st.sampled_from(["bit", "word", "cut", "doubled"]))
        if kind == "bit" and broken:
            broken[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "word" and len(broken) >= 4:
            lie = data.draw(st.sampled_from([0, 4, 12, 28, 32, 2**16, 2**24, 2**31, 2**32 - 4, 2**32 - 1]))
            struct.pack_into("<I", broken, at // 4 * 4, lie)
        elif kind == "cut":
            del broken[at:]
        else:
            broken[at:at] = broken[at : at + 40]
    check(bytes(broken), pieces=(7,))


@pytest.mark.slow
def test_ten_thousand_damaged_files_are_read_alike() -> None:
    chance = random.Random(10_000)
    images = [every_kind("<"), every_kind(">"), every_kind("<") + every_kind(">"), *(one for one in pcaps())]
    for _ in range(10_000):
        broken = bytearray(chance.choice(images))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(broken))
            match chance.randrange(4):
                case 0:
                    broken[at] ^= 1 << chance.randrange(8)
                case 1:
                    struct.pack_into(
                        "<I", broken, min(at // 4 * 4, len(broken) - 4), chance.choice([0, 5, 2**16, 2**32 - 1])
                    )
                case 2:
                    del broken[max(at, 8) :]
                case _:
                    broken[at:at] = chance.randbytes(chance.randint(1, 16))
        check(bytes(broken), pieces=())


def every_kind(order: str) -> bytes:
    """A section with a block of every kind."""
    comment, flags = option(order, 1, b"a comment"), option(order, 2, struct.pack(f"{order}I", 0xF0000005))
    losses = option(order, 4, struct.pack(f"{order}Q", 2**40))
    return b"".join([
        section(order, options=option(order, 4, b"a program")),
        interface(order, 1, 96, resolution=9, options=option(order, 2, b"eth0")),
        interface(order, 113, 0, resolution=0x8A, offset_s=-5),
        packet(b"first", 1_700_000_000_000_000_000, 0, order=order, options=comment + flags + losses + bytes(4)),
        packet(b"second", 2**40, 1, order=order, wirelen=1000),
        simple_packet(bytes(96), 1500, order=order),
        old_packet(b"old", 77, 1, 3, order=order, options=flags),
        block(order, 4, struct.pack(f"{order}HH4s8s", 1, 12, bytes([10, 0, 0, 1]), b"host\0\0\0\0") + bytes(4)),
        block(order, 10, struct.pack(f"{order}II", 0x544C534B, 6) + b"secret\0\0"),
        block(order, 0xBAD, struct.pack(f"{order}I", 32473) + b"whatever"),
        block(order, 5, struct.pack(f"{order}III", 0, 0, 5) + option(order, 4, struct.pack(f"{order}Q", 7)) + bytes(4)),
        packet(b"last", 2**63, 0, order=order),
    ])  # fmt: skip


def pcaps() -> Iterator[bytes]:
    """A pcap file of every kind."""
    for order in "<>":
        for magic, (_, more, head) in PCAP_MAGICS.items():
            header = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 262144, 1) + bytes(more)
            record = struct.pack(f"{order}4I", 1_700_000_000, 5, 11, 60) + bytes(head - 16) + b"some packet"
            yield header + record * 3


# ---- what each part of a file means ----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_everything_that_a_section_has_comes_through(order: str) -> None:
    found = check(every_kind(order))
    assert [one.data for one in found.packets] == [b"first", b"second", bytes(96), b"old", b"last"]
    assert [one.time_ns for one in found.packets] == [
        1_700_000_000_000_000_000, 2**30 * 10**9 - 5 * 10**9, 0, 0, 2**63,
    ]  # fmt: skip
    assert [one.wirelen for one in found.packets] == [5, 1000, 1500, 3, 4]
    assert [one.interface for one in found.packets] == [0, 1, 0, 1, 0]
    assert [one.flags for one in found.packets] == [0xF0000005, 0, 0, 0xF0000005, 0]
    assert [one.dropped for one in found.packets] == [2**40, 0, 0, 3, 0]
    assert (1, b"a comment") in found.packets[0].options
    assert (found.saturated, found.damaged_at) == (1, None)


def test_interfaces_of_all_sections_have_numbers_of_their_own() -> None:
    found = check(every_kind("<") + every_kind(">") + every_kind("<"))
    assert [one.interface for one in found.packets] == [
        2 * number + one for number in range(3) for one in (0, 1, 0, 1, 0)
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_names_secrets_and_custom_blocks_are_passed_on_in_little_endian_order_in_their_place(order: str) -> None:
    file = Savefile(in_memory(every_kind(order)), "lab", Faces())
    parts = list(parts_of(file))
    blocks = [part for part in parts if isinstance(part, bytes)]
    assert [struct.unpack_from("<I", one)[0] for one in blocks] == [4, 10, 0xBAD]
    assert all(one in every_kind("<") for one in blocks)
    assert [len(part) for part in parts if not isinstance(part, bytes)] == [4, 1]
    assert not isinstance(parts[0], bytes)
    assert file.left_out == 0


def test_blocks_before_the_first_interface_are_passed_on_up_to_16_mib() -> None:
    one = block("<", 10, struct.pack("<II", 0x544C534B, 1 << 19) + bytes(1 << 19))
    file = Savefile(in_memory(section() + one * 40 + interface() + packet(b"x", 1)), "lab", Faces())
    parts = list(parts_of(file))
    assert parts[:-1] == [one] * 31
    assert (file.left_out, file.packets) == (9, 1)


def test_block_that_is_too_long_to_be_passed_on_is_counted() -> None:
    long = block("<", 4, bytes(1 << 20))
    file = Savefile(in_memory(section() + interface() + long + packet(b"x", 1)), "lab", Faces())
    assert [len(part) for part in parts_of(file)] == [1]
    assert file.left_out == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_longest_comment_that_there_can_be_is_told_and_flags_behind_any_number_of_them(order: str) -> None:
    comment, flags = option(order, 1, b"c" * 65535), option(order, 2, struct.pack(f"{order}I", 0x10002))
    for count in (1, 9):
        image = section(order) + interface(order) + packet(b"x", 1, order=order, options=comment * count + flags)
        (batch,) = parts_of(Savefile(in_memory(image), "lab", Faces()))
        assert not isinstance(batch, bytes)
        ((*_, told_flags, _, options),) = batch
        assert told_flags == 0x10002
        assert (1, b"c" * 65535) in options_of("<", options)
        assert len(options) <= 128 << 10


@pytest.mark.parametrize("major", [0, 2, 65535])
def test_section_of_another_major_version_ends_the_file_by_its_name(major: int) -> None:
    image = every_kind("<")
    assert check(image + section(">", major=major)).damaged_at == len(image)
    file = Savefile(in_memory(image + section(">", major=major)), "lab", Faces())
    while file.read():
        pass
    assert file.damage is not None
    assert file.damage.endswith(f"pcapng version {major}.0, where 1.0 is known")
    with pytest.raises(CaptureFileError, match=rf"pcapng version {major}\.0, where 1\.0 is known"):
        Savefile(in_memory(section(major=major)), "lab", Faces())


def test_interface_tells_all_that_its_block_says() -> None:
    options = b"".join([
        option(">", 2, b"eth0"), option(">", 3, b"the first"), option(">", 8, struct.pack(">Q", 10**9)),
        option(">", 11, b"\0tcp port 80"), option(">", 12, b"an OS"), option(">", 1, b"one"), option(">", 1, b"two"),
    ])  # fmt: skip
    faces = Faces()
    Savefile(in_memory(section(">") + interface(">", 113, 96, resolution=3, offset_s=5, options=options)), "lab", faces)
    told = interface_of(faces.found[0][1])
    assert (told.name, told.linktype, told.description, told.snaplen) == ("eth0", 113, "the first", 96)
    assert (told.speed, told.filter) == (10**9, "tcp port 80")
    assert told.options == ((12, b"an OS"), (1, b"one"), (1, b"two"))


@pytest.mark.parametrize("fraction", [0, 1, 999_999_999])
@pytest.mark.parametrize(
    ("seconds", "nearest"), [(-1, 0), (-(2**62), 0), (2**62, 2**64 - 1), (18_446_744_074, 2**64 - 1)]
)
def test_time_that_is_no_number_of_ours_is_the_nearest_and_is_counted(
    seconds: int, nearest: int, fraction: int
) -> None:
    image = section() + interface(resolution=9, offset_s=seconds) + packet(b"x", fraction)
    found = check(image)
    assert ([one.time_ns for one in found.packets], found.saturated) == ([nearest], 1)


def test_batch_ends_before_an_interface_and_before_a_block() -> None:
    face, one = interface(), packet(b"x", 1)
    file = Savefile(
        in_memory(section() + face + one * 2 + face + one * 3 + block("<", 0xBAD, b"abcd") + one), "lab", Faces()
    )
    assert [len(part) for part in parts_of(file) if not isinstance(part, bytes)] == [2, 3, 1]


# ---- sizes -----------------------------------------------------------------------------------------------------------


def peak_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def test_block_of_16_mib_is_read_and_a_longer_one_ends_the_file() -> None:
    head = section() + interface()
    fits = block("<", 0xBAD, bytes((16 << 20) - 12))
    assert check(head + fits + packet(b"x", 1), pieces=(1 << 20,)).damaged_at is None
    assert check(head + block("<", 0xBAD, bytes(16 << 20)), pieces=(1 << 20,)).damaged_at == len(head)


def test_length_that_lies_takes_no_memory() -> None:
    head = section() + interface("<", 231)
    lie = struct.pack("<II", 6, 100 << 20)
    before = peak_kib()
    assert check(head + lie + bytes(100), pieces=(4096,)).damaged_at == len(head)
    assert peak_kib() - before < 8 << 10


def test_interfaces_are_limited_and_those_that_fit_are_kept() -> None:
    found = check(section() + interface() * 100_000 + packet(b"x", 1), pieces=())
    assert len(found.faces) == 65_536
    assert found.damaged_at is not None


@pytest.mark.parametrize("caplen", [262_143, 262_144, 262_145, 300_000])
def test_packet_is_whole_up_to_the_most_that_zbuf_carries(caplen: int) -> None:
    pcapng = check(section() + interface() + packet(bytes(caplen), 1), pieces=(1 << 16,))
    assert [len(one.data) for one in pcapng.packets] == [min(caplen, 262_145)]
    assert pcapng.damaged_at is None
    image = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 100, 1) + struct.pack("<4I", 1, 1, caplen, caplen)
    pcap = check(image + bytes(caplen), pieces=(1 << 16,))
    assert pcap.damaged_at == (24 if caplen > 262_144 else None)


# ---- files that change -----------------------------------------------------------------------------------------------


def test_file_that_is_cut_while_it_is_read_keeps_what_was_whole() -> None:
    record = struct.pack("<4I", 1_700_000_000, 5, 984, 984) + bytes(range(256)) * 4
    record = record[:1000]
    image = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1) + record * 2000
    fd = in_memory(image)
    other = os.dup(fd)
    file = Savefile(fd, "lab", Faces())
    packets = [*file.read()]
    os.ftruncate(other, 24 + 1000 * 1000 + 500)
    os.close(other)
    for part in parts_of(file):
        packets += part
    assert {one[0] for one in packets if isinstance(one, tuple)} == {record[16:]}
    assert len(packets) == 1000
    assert (
        file.damage == "lab: damaged after 1000 whole packets, at byte 1000024: cut short: 500 bytes of 1000 are there"
    )


def test_file_that_grows_while_it_is_read_ends_where_it_ended_when_it_was_opened() -> None:
    image = next(pcaps())
    fd = in_memory(image)
    other = os.dup(fd)
    file = Savefile(fd, "lab", Faces())
    os.lseek(other, 0, os.SEEK_END)
    os.write(other, b"more")
    os.close(other)
    assert len(file.read()) == 3
    assert file.read() == []
    assert file.damage is None


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("interface_type", "linktype"), [(6, 1), (9, 6), (15, 10), (24, 0)])
def test_file_of_aix_has_nanoseconds_and_types_of_interfaces(order: str, interface_type: int, linktype: int) -> None:
    header = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 2, 0, 0, 96, interface_type)
    found = check(header + struct.pack(f"{order}4I", 1_700_000_000, 123_456_789, 60, 4) + b"data")
    assert [one.linktype for one in found.faces] == [linktype]
    assert found.packets == [Packet(b"data", 1_700_000_000_123_456_789, 60, 0)]


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short: 0 bytes of 4 are there"),
    "text": (b"text", "it begins with 74 65 78 74, as neither pcap nor pcapng does"),
    "half a header": (next(pcaps())[:23], "cut short: 23 bytes of 24 are there"),
    "no interface": (section(), "it describes no interface"),
    "version 1.0": (
        struct.pack("<IHHiIII", 0xA1B2C3D4, 1, 0, 0, 0, 0, 1),
        "pcap version 1.0, where version 2 is known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("opened", [in_memory, lambda image: by_pipe(image, 9)], ids=["file", "pipe"])
def test_what_is_no_capture_is_refused_and_says_why(case: str, opened: Callable[[bytes], Any]) -> None:
    image, why = REFUSED[case]
    with contextlib.ExitStack() as closing:
        fd = opened(image)
        fd = fd if isinstance(fd, int) else closing.enter_context(fd)
        with pytest.raises(CaptureFileError) as refused:
            Savefile(fd, "lab", Faces())
    assert str(refused.value) == f"lab: not a capture file: {why}"
