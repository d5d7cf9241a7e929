"""What a pcapng file has beside its packets comes out again: comments, flags, names, secrets, custom blocks."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import Commands, run, wait_line

SECTION, INTERFACE, NAMES, PACKET, SECRETS, CUSTOM = 0x0A0D0D0A, 1, 4, 6, 10, 0xBAD
ETHERNET, SLL2 = 1, 276
COMMENT, FLAGS, DROPCOUNT, IF_NAME, IF_TSRESOL = 1, 2, 4, 2, 9
TIME_NS = 1_700_000_000_123_456_789


def block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", len(body) + -len(body) % 4 + 12)
    return struct.pack("<I", kind) + total + body + bytes(-len(body) % 4) + total


def option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(linktype: int, name: bytes) -> bytes:
    return block(INTERFACE, struct.pack("<HHI", linktype, 0, 0) + option(IF_NAME, name) + option(IF_TSRESOL, b"\x09"))


def packet(number: int, time_ns: int, data: bytes, options: bytes = b"") -> bytes:
    fixed = struct.pack("<5I", number, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data))
    return block(PACKET, fixed + data + bytes(-len(data) % 4) + options + (bytes(4) if options else b""))


BLOCKS = [
    block(NAMES, struct.pack("<HH", 1, 12) + bytes([10, 0, 0, 1]) + b"host.ex\0" + bytes(4)),
    interface(ETHERNET, b"eth0"),
    block(SECRETS, struct.pack("<II", 0x544C534B, 9) + b"SECRETS\n\n"),
    packet(0, TIME_NS, bytes(61), option(COMMENT, b"a remark") + option(FLAGS, struct.pack("<I", 0x01000001))),
    interface(SLL2, b"any0"),
    packet(1, TIME_NS + 5, bytes(23)),
    packet(1, TIME_NS + 6, bytes(24), option(FLAGS, struct.pack("<I", 2))),
    block(CUSTOM, struct.pack("<I", 32473) + b"as it is"),
    packet(0, TIME_NS + 9, bytes(60), option(DROPCOUNT, struct.pack("<Q", 7)) + option(COMMENT, b"another")),
]


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    path = tmp_path / "rich.pcapng"
    path.write_bytes(block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)) + b"".join(BLOCKS))
    return path


def blocks_of(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        (total,) = struct.unpack_from("<I", data, at + 4)
        yield data[at : at + total]
        at += total


def kind_of(one: bytes) -> int:
    return int(struct.unpack_from("<I", one)[0])


def check(path: Path) -> None:
    """Interfaces come first, and statistics last; everything between them is as it was, in its order."""
    found = list(blocks_of(path))
    linktypes = [struct.unpack_from("<H", one, 8)[0] for one in found if kind_of(one) == INTERFACE]
    assert linktypes == [ETHERNET, SLL2]
    kept = {NAMES, PACKET, SECRETS, CUSTOM}
    assert [one for one in found if kind_of(one) in kept] == [one for one in BLOCKS if kind_of(one) in kept]


@pytest.mark.parametrize("options", [(), ("--preload-limit", "1")], ids=["preloaded", "streamed"])
def test_replayed_and_dumped_file_has_everything_again(
    commands: Commands, producer_name: str, rich: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    replay = commands.start(
        "zbufd", "replay", rich, "--name", producer_name, "--wait-readers", "1", "--lossless", *options
    )
    wait_line(replay.stderr, "ready in")
    done = run("zbuf", "dump", producer_name, "-w", tmp_path / "out.pcapng")
    assert done.returncode == 0, done.stderr
    check(tmp_path / "out.pcapng")


def test_file_that_is_read_and_written_again_is_a_fixed_point(rich: Path, tmp_path: Path) -> None:
    for source, target in ((rich, "once"), (tmp_path / "once", "twice")):
        done = run("zbuf", "dump", "-r", source, "-w", tmp_path / target)
        assert done.returncode == 0, done.stderr
        check(tmp_path / target)


def test_blocks_that_are_no_packets_come_on_the_first_pass_alone(
    commands: Commands, producer_name: str, rich: Path, tmp_path: Path
) -> None:
    replay = commands.start(
        "zbufd", "replay", rich, "--name", producer_name, "--wait-readers", "1", "--lossless", "--loop", "3"
    )
    wait_line(replay.stderr, "ready in")
    done = run("zbuf", "dump", producer_name, "-w", tmp_path / "out.pcapng")
    assert done.returncode == 0, done.stderr
    kinds = [kind_of(one) for one in blocks_of(tmp_path / "out.pcapng")]
    assert [kinds.count(kind) for kind in (PACKET, NAMES, SECRETS, CUSTOM)] == [12, 1, 1, 1]
