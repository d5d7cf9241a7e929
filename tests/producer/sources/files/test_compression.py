"""Compressed captures: known by their first bytes, in files and in pipes, of several parts, damaged, and bombs."""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.frame
import pytest
from support.captures import Record, pcap, pcapng, sample
from support.processes import Remote
from support.reference import block, interface, packet, section

from zbuf.producer import FileSource
from zbuf.producer.sources.files.compression import KNOWN, DamagedData, compression_of, unpack
from zbuf.shared.errors import CaptureFileError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda image: gzip.compress(image, mtime=0),
    "zstd": lambda image: bytes(zstd.compress(image, options={zstd.CompressionParameter.checksum_flag: 1})),
    "lz4": lambda image: bytes(lz4.frame.compress(image, content_checksum=True)),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
PROGRAMS = {"gzip": "gzip", "zstd": "zstd", "lz4": "lz4", "xz": "xz", "bzip2": "bzip2"}
IMAGE = pcap(sample(1000) * 5)

each = pytest.mark.parametrize("kind", PACK)


def pieces_of(image: bytes, size: int) -> Callable[[], bytes]:
    """What unpack() reads from."""
    some: Iterator[bytes] = iter([image[at : at + size] for at in range(0, len(image), size)])
    return lambda: next(some, b"")


def unpacked(image: bytes, size: int = 1 << 16) -> bytes:
    compression = compression_of(image[:6])
    assert compression is not None
    return b"".join(unpack(compression, pieces_of(image, size)))


def names() -> list[str]:
    return [one.name for one in KNOWN]


def test_every_kind_is_tested() -> None:
    assert names() == list(PACK)


@each
@pytest.mark.parametrize("size", [1, 5, 1 << 16])
def test_file_in_pieces_of_any_size_is_unpacked(kind: str, size: int) -> None:
    assert unpacked(PACK[kind](IMAGE), size) == IMAGE


@each
def test_file_of_several_parts_is_unpacked_to_its_end(kind: str) -> None:
    assert unpacked(b"".join(PACK[kind](IMAGE[at : at + 1000]) for at in range(0, len(IMAGE), 1000))) == IMAGE
    assert unpacked(PACK[kind](IMAGE) + PACK[kind](b""), 3) == IMAGE


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_zeros_behind_a_part_are_padding(kind: str) -> None:
    assert unpacked(PACK[kind](IMAGE) + bytes(4096) + PACK[kind](IMAGE) + bytes(8)) == IMAGE * 2


@each
def test_something_else_behind_a_part_is_damage_behind_what_was_whole(kind: str) -> None:
    got: list[bytes] = []
    compression = compression_of(PACK[kind](IMAGE)[:6])
    assert compression is not None
    pieces = unpack(compression, pieces_of(PACK[kind](IMAGE) + b"something else", 100))
    with pytest.raises(DamagedData, match=f"damaged {kind} file: something else follows its data"):
        got.extend(pieces)
    assert b"".join(got) == IMAGE


@each
@pytest.mark.skipif(any(shutil.which(one) is None for one in PROGRAMS.values()), reason="a program is not installed")
def test_what_the_program_of_that_name_writes_is_read(kind: str) -> None:
    packed = subprocess.run([PROGRAMS[kind], "-c"], input=IMAGE, capture_output=True, check=True).stdout
    assert unpacked(packed) == IMAGE


@each
@pytest.mark.parametrize("make", [pcap, pcapng])
@pytest.mark.parametrize("name", ["capture", "capture.pcap", "capture.gz"])
def test_name_of_a_compressed_file_says_nothing(
    tmp_path: Path, kind: str, make: Callable[[list[Record]], bytes], name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(PACK[kind](make(sample(1000))))
    source = FileSource([str(path)])
    assert source.sizes.packets == len(sample(1000))
    assert source.warnings == []


@each
def test_compressed_file_cut_short_gives_what_was_whole_and_says_so(tmp_path: Path, kind: str) -> None:
    records = [Record(os.urandom(1000), number * 1000, 1000) for number in range(2500)]
    image = PACK[kind](pcap(records))
    path = tmp_path / "lab"
    path.write_bytes(image[: len(image) * 3 // 4])
    source = FileSource([str(path)])
    packets = source.sizes.packets
    assert 800 < packets <= 1875  # bzip2 has blocks of 900 kB
    where = f"after {packets} whole packets, at byte {24 + 1016 * packets}"
    assert source.damage == [f"{path}: damaged {where}: damaged {kind} file: it ends in the middle of its data"]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "lz4"])
def test_wrong_checksum_is_told_and_costs_no_packet(tmp_path: Path, kind: str) -> None:
    image = bytearray(PACK[kind](IMAGE))
    image[-8 if kind == "gzip" else -1] ^= 1
    path = tmp_path / "lab"
    path.write_bytes(image)
    source = FileSource([str(path)])
    assert source.sizes.packets == 5 * len(sample(1000))
    assert len(source.damage) == 1


@each
def test_file_that_is_compressed_twice_is_refused_in_a_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lab"
    path.write_bytes(PACK[kind](PACK[kind](IMAGE)))
    with pytest.raises(CaptureFileError, match=f"^{path}: not a capture file: [^\n]+$"):
        FileSource([str(path)])


@each
def test_standard_input_may_be_compressed(kind: str, run_dir: Path) -> None:
    done = replay(PACK[kind](IMAGE), run_dir)
    assert done.returncode == 0, done.stderr
    assert f"{5 * len(sample(1000))} packets offered" in done.stdout


# ---- more than there is memory for -----------------------------------------------------------------------------------

ZEROS = 64 << 20
MOST_KIB = 300 << 10
"""What a process may have in memory at most: a fraction of what it is given."""
REPORTED = """
import resource
from zbuf.producer import FileSource
from zbuf.producer.ring.pump import Pump
source, pump = FileSource([path], 1 << 20), Pump()
for native in source.passes(1):
    pump.run(native)
"""


def replay(image: bytes, run_dir: Path) -> "subprocess.CompletedProcess[str]":
    """zbufd replay of what comes by its standard input."""
    program = str(Path(sys.executable).with_name("zbufd"))
    command = [program, "replay", "-", "--run-dir", str(run_dir), "--name", "lab"]
    done = subprocess.run(command, input=image, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def bomb(head: bytes, count: int) -> bytes:
    """So many times 64 MiB of zeros behind a capture's beginning, in some kilobytes."""
    return bytes(zstd.compress(head)) + bytes(zstd.compress(bytes(ZEROS))) * count


def test_bomb_of_empty_packets_is_streamed_in_bounded_memory(remote: Callable[[], Remote], tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb(pcap([]), 8))
    process = remote()
    process.do(REPORTED, path=str(path))
    assert process.ask("pump.offered") == 8 * ZEROS // 16
    assert process.ask("source.warnings") == []
    assert process.ask("resource.getrusage(resource.RUSAGE_SELF).ru_maxrss") < MOST_KIB


def test_bomb_behind_a_section_ends_at_once_in_a_line(run_dir: Path) -> None:
    done = replay(bomb(section() + interface(), 100), run_dir)
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [
        "zbufd: -: damaged after 0 whole packets, at byte 52: a block of type 0 and 0 bytes"
    ]


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", "zbufd: -: not a capture file: unknown file format"),
        (section() + interface(), "zbufd: -: damaged after 0 whole packets, at byte 52: a block of type 0 and 0 bytes"),
    ],
    ids=["zeros", "section"],
)
def test_endless_pipe_of_zeros_ends_in_a_line(run_dir: Path, head: bytes, why: str) -> None:
    reading, writing = os.pipe()
    over = threading.Event()

    def write() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb", buffering=0) as pipe:
            pipe.write(head)
            while not over.is_set():
                pipe.write(bytes(1 << 16))

    thread = threading.Thread(target=write)
    thread.start()
    program = str(Path(sys.executable).with_name("zbufd"))
    command = [program, "replay", "-", "--run-dir", str(run_dir), "--name", "lab"]
    done = subprocess.run(command, stdin=reading, capture_output=True, text=True, check=False)
    os.close(reading)
    over.set()
    thread.join()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == why
    assert "Traceback" not in done.stderr


def test_block_of_16_mib_is_read_but_not_passed_on_and_that_is_told(run_dir: Path) -> None:
    long = block("<", 0xBAD, bytes((16 << 20) - 12))
    done = replay(zstd.compress(section() + interface() + long + packet(b"x", 5)), run_dir)
    assert done.returncode == 0
    assert done.stderr.splitlines()[1:] == [
        "zbufd: -: 1 block that is no packet is left out: longer than 1048576 bytes"
    ]
    assert "1 packets" in done.stdout
