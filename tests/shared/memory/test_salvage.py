"""zbuf salvage, and what it is made of: what killed producers left unread becomes files, and nothing else does."""

import contextlib
import json
import os
import random
import re
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import read_capture
from support.commands import command, run
from support.processes import Lab, Remote, number_of, take, take_all

from zbuf.consumer import connect
from zbuf.consumer.reading.reader import Reader
from zbuf.producer import Producer
from zbuf.shared.errors import SegmentError, ZbufError
from zbuf.shared.memory.leftovers import Found, find_segments, leftovers
from zbuf.shared.memory.salvage import salvage, salvage_all

PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""
SHM = Path("/dev/shm")
FIRST_BUFFER = 18 * PAGE
"""Where A begins in a segment: page 0, the prologue's page, and what that may grow by."""
FIRST_BLOCK = FIRST_BUFFER + 128
"""Where the first packet's block begins in a segment."""
BLOCK_BYTES = 32 + 60
KERNEL_LEN = FIRST_BUFFER + 4

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
Done = subprocess.CompletedProcess[str]


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    """All of these tests have a run directory of their own."""
    return run_dir


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.pcapng"


@pytest.fixture
def killed(lab: Lab) -> Iterator[Callable[..., Path]]:
    """killed(count): the segment of a producer that was killed when so many packets were appended and none was read."""
    with contextlib.ExitStack() as cleaning:

        def kill_after(count: int, **options: Any) -> Path:
            cleaning.enter_context(connect(lab.name, **({"buffer_size": PAGE, "timeout_ms": 0} | options)))
            lab.append(count)
            lab.kill()
            return SHM / f"zbuf.{lab.name}.{min(one.descriptor for one in find_segments(lab.name))}"

        yield kill_after


def numbers_in(path: Path) -> list[int]:
    """The numbers of the packets in a file; tcpdump must find it whole, and as many packets in it."""
    numbers = [number_of(record.data) for record in read_capture(path.read_bytes()).records]
    with path.open("rb") as file:
        done = subprocess.run(
            ["tcpdump", "-nn", "-t", "-r", "-"], stdin=file, capture_output=True, text=True, check=True
        )
    assert "truncated" not in done.stderr
    assert len([line for line in done.stdout.splitlines() if not line.startswith("\t")]) == len(numbers)
    return numbers


def salvaged(name: str, out: Path, *options: str) -> list[int]:
    """The numbers that zbuf salvage writes to one file, which it must tell right."""
    done = run("zbuf", "salvage", name, "-w", out, *options)
    assert (done.returncode, done.stderr) == (0, "")
    numbers = numbers_in(out)
    packets = "1 packet" if len(numbers) == 1 else f"{len(numbers):,} packets"
    assert done.stdout.startswith(f"{out}: {packets} of descriptor ")
    return numbers


def error_of(done: Done, status: int = 1) -> str:
    """The one line of error of a command that failed as it should."""
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("zbuf: ")
    return line


def assert_next_start_is_clean(name: str) -> None:
    Producer(name).close()
    assert list(SHM.glob(f"zbuf.{name}.*")) == []


# ---- nothing is lost, and nothing comes twice -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "left"),
    [(1, 1), (5, 5), (PER_PAGE, PER_PAGE), (PER_PAGE + 5, PER_PAGE + 5), (2 * PER_PAGE + 7, 2 * PER_PAGE)],
    ids=["a packet", "store only", "a full store", "assigned and store", "both assigned, and 7 dropped"],
)
def test_all_that_was_appended_and_never_read_is_salvaged(
    lab: Lab, killed: Callable[..., Path], out: Path, count: int, left: int
) -> None:
    killed(count)
    assert salvaged(lab.name, out) == list(range(left))
    assert salvaged(lab.name, out) == list(range(left))  # it is kept, and the file overwritten
    assert_next_start_is_clean(lab.name)


def acknowledge(reader: Reader, buffers: int) -> None:
    for _ in range(buffers):
        reader.rotate()
        buffer = reader.next_buffer(timeout=0)
        assert buffer is not None
        buffer.acknowledge()


@pytest.mark.parametrize("acknowledged", [0, 1, 2])
def test_what_the_producer_saw_acknowledged_is_not_salvaged(lab: Lab, out: Path, acknowledged: int) -> None:
    with connect(lab.name, buffer_size=PAGE, timeout_ms=0) as reader:
        numbers = lab.append(2 * PER_PAGE)
        acknowledge(reader, acknowledged)
        numbers += lab.append(acknowledged)
        left = lab.descriptors()[0].buffered
        lab.kill()
        assert left == len(numbers) - acknowledged * PER_PAGE
        assert salvaged(lab.name, out) == numbers[acknowledged * PER_PAGE :]
    assert_next_start_is_clean(lab.name)


@pytest.mark.parametrize("both", [False, True], ids=["one acknowledged", "both acknowledged"])
def test_what_all_readers_of_a_group_acknowledged_is_not_salvaged(lab: Lab, out: Path, both: bool) -> None:
    options: dict[str, Any] = {"join": "g", "buffer_size": PAGE, "timeout_ms": 0}
    with connect(lab.name, **options) as one, connect(lab.name, **options) as other:
        numbers = lab.append(PER_PAGE + 5)
        acknowledge(one, 1)
        if both:
            acknowledge(other, 1)
        lab.descriptors()
        lab.kill()
        assert salvaged(lab.name, out) == numbers[PER_PAGE if both else 0 :]
    assert_next_start_is_clean(lab.name)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("join", [None, "g"], ids=["private", "joined"])
def test_salvage_goes_on_where_the_readers_acknowledgements_end(
    remote: Callable[[], Remote], producer_name: str, out: Path, seed: int, join: str | None
) -> None:
    chance = random.Random(seed)
    producer = remote()
    producer.do("import itertools; producer = Producer(name, lossless=True)", name=producer_name)
    with connect(producer_name, buffer_size=PAGE * chance.choice([1, 2, 16]), join=join) as reader:
        producer.begin("for number in itertools.count(): producer.append(numbered(number))")
        seen = take(reader, chance.randrange(1, 3000))
        threading.Timer(chance.random() / 100, producer.kill).start()
        seen += take_all(reader)
        producer.wait_end()
        assert reader.end_reason == "producer died"
        assert seen == list(range(len(seen)))
        if not [found for found in leftovers(producer_name) if found.packets]:
            pytest.skip("it was killed when all was acknowledged")
        numbers = salvaged(producer_name, out)
    assert numbers == list(range(numbers[0], len(seen)))  # gapless to the last packet that anybody can have


def test_packets_come_with_their_times_their_lengths_and_their_losses(
    remote: Callable[[], Remote], producer_name: str, out: Path
) -> None:
    producer = remote()
    producer.do("producer = Producer(name)", name=producer_name)
    with connect(producer_name, snaplen=20, timeout_ms=0):
        producer.do("for n in range(3): producer.append(numbered(n), time_ns=1_700_000_000_000_000_001 + n)")
        producer.kill()
    done = run("zbuf", "salvage", producer_name, "-w", out)
    assert "2023-11-14 22:13:20.000000001 to 2023-11-14 22:13:20.000000003 UTC" in done.stdout
    records = read_capture(out.read_bytes()).records
    assert [(one.time_ns % 10, len(one.data), one.wirelen) for one in records] == [
        (1, 20, 60),
        (2, 20, 60),
        (3, 20, 60),
    ]


def test_large_buffers_are_written_in_many_pieces(lab: Lab, killed: Callable[..., Path], out: Path) -> None:
    killed(20_000, buffer_size=1 << 20)
    assert salvaged(lab.name, out) == list(range(20_000))


# ---- several descriptors --------------------------------------------------------------------------------------------


def test_each_of_several_descriptors_has_a_file_of_its_own(lab: Lab, tmp_path: Path) -> None:
    with connect(lab.name, timeout_ms=0), connect(lab.name, filter="len > 1000"), connect(lab.name, timeout_ms=0):
        lab.append(5)
        lab.kill()
    done = run("zbuf", "salvage", lab.name, "-w", tmp_path / "ring.pcapng", "--json")
    told = json.loads(done.stdout)
    assert len(told) == 2  # the third has nothing
    for one in told:
        assert one["path"] == str(tmp_path / f"ring.{one['descriptor']}.pcapng")
        assert numbers_in(Path(one["path"])) == list(range(5))
        assert (one["packets"], one["length_bytes"]) == (5, Path(one["path"]).stat().st_size)
        assert 0 < one["first_ns"] <= one["last_ns"]
    last = told[-1]["descriptor"]
    assert salvaged(lab.name, tmp_path / "one", "--descriptor", str(last)) == list(range(5))
    line = error_of(run("zbuf", "salvage", lab.name, "-w", "-"), 2)
    assert f"from {told[0]['descriptor']}, {last}" in line
    line = error_of(run("zbuf", "salvage", lab.name, "-w", tmp_path / "none", "--descriptor", "77"))
    assert "descriptor 77" in line


def test_standard_output_has_the_file_and_standard_error_the_report(killed: Callable[..., Path], lab: Lab) -> None:
    killed(5)
    line = command("zbuf", "salvage", lab.name, "-w", "-")
    done = subprocess.run(line, capture_output=True, check=True)
    assert [number_of(one.data) for one in read_capture(done.stdout).records] == list(range(5))
    assert done.stderr.startswith(b"standard output: 5 packets of descriptor")


# ---- what is there, and what is taken away --------------------------------------------------------------------------


def test_list_tells_what_was_left_and_by_whom(lab: Lab, killed: Callable[..., Path]) -> None:
    killed(7)
    (one,) = [one for one in json.loads(run("zbuf", "salvage", "--json").stdout) if one["producer"] == lab.name]
    assert (one["packets"], one["length_bytes"], one["damage"]) == (7, 7 * BLOCK_BYTES, "")
    lines = run("zbuf", "salvage").stdout.splitlines()
    assert re.match(rf"{re.escape(lab.name)} +\d+ +7 +{7 * BLOCK_BYTES} +{one['owner']} +-", "\n".join(
        line for line in lines if line.startswith(lab.name)
    ))  # fmt: skip


def test_removal_follows_the_writing(lab: Lab, killed: Callable[..., Path], out: Path) -> None:
    path = killed(5)
    line = error_of(run("zbuf", "salvage", lab.name, "-w", out.parent, "--remove"))
    assert line == f"zbuf: {out.parent}: Is a directory"
    assert path.exists()
    assert salvaged(lab.name, out, "--remove") == list(range(5))
    assert not path.exists()
    line = error_of(run("zbuf", "salvage", lab.name, "-w", out))
    assert line.startswith(f"zbuf: no killed producer {lab.name!r} left anything behind")
    assert numbers_in(out) == list(range(5))  # a failure costs no file


def test_segment_of_a_new_producer_with_the_same_name_is_not_removed(
    lab: Lab, killed: Callable[..., Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = killed(5)
    (found,) = find_segments(lab.name)
    fsync = os.fsync

    def replace_it(fd: int) -> None:
        path.unlink()
        path.write_bytes(b"another's")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", replace_it)
    salvage(found, str(out), remove=True)
    assert path.read_bytes() == b"another's"


def test_living_producer_is_left_alone(lab: Lab, out: Path) -> None:
    with connect(lab.name) as reader:
        lab.append(5)
        line = error_of(run("zbuf", "salvage", lab.name, "-w", out, "--remove"))
        assert line == f"zbuf: producer {lab.name!r} is alive: read its packets with zbuf dump {lab.name}"
        assert not out.exists()
        (found,) = find_segments(lab.name)
        with pytest.raises(SegmentError, match="a living producer's"):
            salvage(found, str(out), remove=True)
        assert lab.name not in run("zbuf", "salvage").stdout
        lab.process.do("import threading; threading.Thread(target=producer.close, daemon=True).start()")
        assert take_all(reader) == list(range(5))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["x"], "-w FILE"),
        (["-w", "f"], "say whose"),
        (["x", "-w", "-", "--remove"], "--remove"),
        (["a/b", "-w", "f"], "'a/b'"),
    ],
)
def test_wrong_use_is_one_line(options: list[str], said: str) -> None:
    done = run("zbuf", "salvage", *options)
    assert said in error_of(done, done.returncode)
    assert done.returncode == (1 if "a/b" in options else 2)


def test_only_a_regular_file_is_overwritten(lab: Lab, killed: Callable[..., Path], tmp_path: Path) -> None:
    killed(5)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/null"), tmp_path / "no" / "such"):
        assert error_of(run("zbuf", "salvage", lab.name, "-w", path)).startswith(f"zbuf: {path}")


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 3), (20, 1 << 31), (4, 0), (8, 1), (88, 96)],
    ids=["type", "captured", "length", "interface", "length again"],
)
def test_blocks_from_a_damaged_one_on_are_left_out_and_the_segment_is_kept(
    lab: Lab, killed: Callable[..., Path], out: Path, offset: int, value: int
) -> None:
    path = killed(20)
    image = path.read_bytes()
    harm(path, image, FIRST_BLOCK + 7 * BLOCK_BYTES + offset, struct.pack("<I", value))
    done = run("zbuf", "salvage", lab.name, "-w", out, "--remove")
    left_out = f"{13 * BLOCK_BYTES} bytes from the damage on are left out"
    assert done.stderr == f"zbuf: {path} is damaged, and is kept: {left_out}\n"
    assert numbers_in(out) == list(range(7))
    assert path.exists()


def harm(path: Path, image: bytes, offset: int, data: bytes) -> None:
    path.write_bytes(image[:offset] + data + image[offset + len(data) :])


@pytest.mark.parametrize("seed", range(10))
def test_random_damage_is_an_error_or_a_whole_file_of_fewer_packets(
    lab: Lab, killed: Callable[..., Path], out: Path, seed: int
) -> None:
    chance = random.Random(seed)
    path = killed(PER_PAGE + 9)
    image = bytearray(path.read_bytes())
    for _ in range(100):
        harmed = bytearray(image)
        area = chance.choice([(0, 384), (PAGE, PAGE + 120), (FIRST_BUFFER, FIRST_BLOCK), (FIRST_BLOCK, len(image))])
        for _ in range(chance.choice([1, 8, 200])):
            at = chance.randrange(*area)
            harmed[at] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        path.write_bytes(harmed[: chance.choice([len(harmed), chance.randrange(len(harmed) + 1)])])
        (found,) = find_segments(lab.name)
        with contextlib.suppress(ZbufError):
            told = salvage(found, str(out))
            assert told.packets <= found.packets <= PER_PAGE + 9
            assert told.left_out_bytes >= (found.packets - told.packets) * BLOCK_BYTES
            assert told.length_bytes == out.stat().st_size
            if area[0] == FIRST_BLOCK:
                assert len(read_capture(out.read_bytes()).records) == told.packets


@pytest.mark.parametrize(
    "content",
    [b"", b"?", bytes(PAGE), b"#!/bin/sh\n" * 1000],
    ids=["empty", "short", "without a header", "foreign"],
)
def test_half_made_segment_is_one_line_and_no_file(producer_name: str, out: Path, content: bytes) -> None:
    (SHM / f"zbuf.{producer_name}.0").write_bytes(content)
    line = error_of(run("zbuf", "salvage", producer_name, "-w", out, "--remove"))
    assert line.startswith(f"zbuf: /dev/shm/zbuf.{producer_name}.0: ")
    assert not out.exists()
    assert_next_start_is_clean(producer_name)


def test_segment_that_was_never_opened_is_one_line(lab: Lab, killed: Callable[..., Path], out: Path) -> None:
    path = killed(5)
    harm(path, path.read_bytes(), 12, bytes(4))
    assert "not open yet: its producer is still making it, or died doing so" in error_of(
        run("zbuf", "salvage", lab.name, "-w", out)
    )


def test_half_made_segment_beside_a_good_one_is_told_and_the_other_is_written(
    lab: Lab, killed: Callable[..., Path], out: Path
) -> None:
    killed(5)
    (SHM / f"zbuf.{lab.name}.99").write_bytes(b"?")
    done = run("zbuf", "salvage", lab.name, "-w", out)
    assert (done.returncode, numbers_in(out)) == (1, list(range(5)))
    assert done.stderr.startswith(f"zbuf: /dev/shm/zbuf.{lab.name}.99: segment of 1 bytes")


def test_huge_sparse_segment_is_refused(lab: Lab, killed: Callable[..., Path], out: Path) -> None:
    path = killed(5)
    os.truncate(path, 1 << 50)
    with path.open("r+b") as file:
        file.seek(40)
        file.write(struct.pack("<Q", 1 << 49))  # prologue_bytes
    assert "/dev/shm/" in error_of(run("zbuf", "salvage", lab.name, "-w", out))


def test_what_only_has_the_name_of_a_segment_is_passed_over(producer_name: str, tmp_path: Path) -> None:
    made = [SHM / f"zbuf.{producer_name}.{number}" for number in range(3)]
    os.mkfifo(made[0])
    made[1].symlink_to(tmp_path / "nothing")
    made[2].mkdir()
    try:
        assert list(find_segments(producer_name)) == []  # and nobody waits for the FIFO's other end
        Producer(producer_name).close()
    finally:
        made[2].rmdir()


def test_full_disk_is_one_line_and_what_was_written_is_a_whole_file(
    lab: Lab, killed: Callable[..., Path], small_disk: Path
) -> None:
    path = killed(20_000, buffer_size=2 << 20)
    out = small_disk / "out"
    line = error_of(run("zbuf", "salvage", lab.name, "-w", out, "--remove"))
    numbers = numbers_in(out)
    assert numbers == list(range(len(numbers)))
    assert f"{out}: No space left on device: it holds {len(numbers)} of the 20000 packets, and {path} has them" in line
    assert 0 < len(numbers) < 20_000
    assert path.exists()


# ---- other users' ---------------------------------------------------------------------------------------------------

AS_SOMEBODY_ELSE = """
from zbuf.consumer.tools.salvaging import salvage_to_files
from zbuf.shared.memory.leftovers import find_segments
os.setuid(54321)
"""


@as_root
def test_another_users_segment_is_told_and_not_touched(
    lab: Lab, remote: Callable[[], Remote], killed: Callable[..., Path]
) -> None:
    path = killed(5)
    path.chmod(0o666)  # even where it lets us
    somebody = remote()
    somebody.do(AS_SOMEBODY_ELSE, name=lab.name)
    assert somebody.ask("[one.state for one in find_segments(name)]") == ["foreign"]
    with pytest.raises(ZbufError, match=re.escape(f"{path} belongs to user root: salvage it as root")):
        somebody.do("salvage_to_files(name, '/nonexistent', descriptor=None, remove=True, json=False)")
    assert path.exists()


@as_root
def test_root_salvages_anybodys_segment_but_its_producer_leaves_it(
    lab: Lab, killed: Callable[..., Path], out: Path, tmp_path: Path
) -> None:
    path = killed(5)
    os.chown(path, 54321, 54321)
    assert salvage_all(lab.name, tmp_path) == []
    Producer(lab.name).close()
    listed = json.loads(run("zbuf", "salvage", "--json").stdout)
    assert [one["owner"] for one in listed if one["producer"] == lab.name] == ["54321"]
    assert salvaged(lab.name, out, "--remove") == list(range(5))
    assert not path.exists()


# ---- the producer's side --------------------------------------------------------------------------------------------


def test_salvage_all_writes_a_new_file_for_each_segment_with_packets(lab: Lab, tmp_path: Path) -> None:
    when = 1_700_000_000_000_000_009
    with connect(lab.name, timeout_ms=0), connect(lab.name, filter="len > 1000"), connect(lab.name, timeout_ms=0):
        lab.append(5, time_ns=when)
        lab.kill()
    found = [one for one in leftovers(lab.name) if one.packets]
    paths = [one.path for one in salvage_all(lab.name, tmp_path)]
    assert paths == [f"{tmp_path}/{lab.name}-{one.descriptor}-20231114T221320.000000009Z.pcapng" for one in found]
    assert [numbers_in(Path(path)) for path in paths] == [list(range(5))] * 2
    again = [one.path for one in salvage_all(lab.name, tmp_path)]
    assert again == [path.replace("Z.pcapng", "Z.2.pcapng") for path in paths]
    assert_next_start_is_clean(lab.name)
    assert salvage_all(lab.name, tmp_path) == []


def test_salvage_all_passes_over_a_damaged_segment_and_fails_where_it_can_not_write(
    lab: Lab, killed: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = killed(5)
    with pytest.raises(ZbufError, match="No such file or directory"):
        salvage_all(lab.name, tmp_path / "nowhere")
    harm(path, path.read_bytes(), PAGE, b"????")  # the prologue
    assert [found.packets for found in leftovers(lab.name)] == [5]
    assert salvage_all(lab.name, tmp_path) == []
    assert "no pcapng Section Header" in caplog.messages[0]


def test_found_names_its_file() -> None:
    assert Found("a.b", 7, 0, "left").name == "/zbuf.a.b.7"
