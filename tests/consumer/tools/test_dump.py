"""zbuf dump's files: when one ends and the next begins, what they are called, and that each is whole."""

import gzip
import itertools
import os
import pwd
import re
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.captures import Record, pcap, pcapng, read_capture
from support.commands import Commands, Done, Process, command, end, error_of, run, tcpdump, told, wait_line
from support.processes import LIMIT_S, Lab, Remote, number_of, numbered, take

from zbuf.consumer import connect

pytestmark = pytest.mark.usefixtures("run_dir")

SIZE = 500
BLOCK = 32 + SIZE


@pytest.fixture
def lab(remote: Callable[[], Remote], producer_name: str) -> Lab:
    """A producer that loses nothing: its packets wait."""
    return Lab(remote(), producer_name, lossless=True)


@pytest.fixture
def dump(commands: Commands, lab: Lab) -> Callable[..., Process]:
    """dump(*options): a dump that is connected."""

    def start(*options: str | Path) -> Process:
        process = commands.start("zbuf", "dump", lab.name, *options)
        wait_line(process.stderr, "zbuf: reading")
        if not {"-b", "-C", "-G"}.isdisjoint(map(str, options)):
            wait_line(process.stderr, "zbuf: writing")  # the first file
        return process

    return start


def numbers_in(path: Path) -> list[int]:
    """The numbers of the packets in a file, which tcpdump finds whole, too."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    else:
        assert len(tcpdump(path)) == len(read_capture(data).records)
    return [number_of(record.data) for record in read_capture(data).records]


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def finish(lab: Lab, process: Process) -> Done:
    """The end of the producer, and of a dump that is in good order then."""
    lab.process.begin("producer.close()")
    done = end(process)
    lab.process.result()
    assert done.returncode == 0, done.stderr
    return done


# ---- dumpcap's ring -------------------------------------------------------------------------------------------------


def test_ring_by_size_keeps_the_last_files_whole_and_loses_nothing_between_them(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "ring.pcapng", "-b", "filesize:1000", "-b", "files:5")
    sent = lab.append(15_000, size=SIZE)
    finish(lab, process)
    files = files_in(tmp_path)
    names = [re.fullmatch(r"ring_(\d{5})_(\d{14})\.pcapng", file.name) for file in files]
    assert [int(name[1]) for name in names if name] == [4, 5, 6, 7, 8]
    found = [numbers_in(file) for file in files]
    assert list(itertools.chain(*found)) == sent[-sum(map(len, found)) :]
    for file in files[:-1]:
        assert 1_000_000 - BLOCK < file.stat().st_size <= 1_000_000


def test_ring_by_packets_has_exactly_so_many_in_each_and_ends_after_so_many_files(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-b", "packets:7", "-a", "files:3")
    lab.append(30)
    done = finish(lab, process)
    assert [numbers_in(file) for file in files_in(tmp_path)] == [
        list(range(7)),
        list(range(7, 14)),
        list(range(14, 21)),
    ]
    assert told(done.stderr)[-3] == "21 packets captured"


def test_last_file_that_is_full_ends_the_dump_before_another_packet_comes(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-U", "-b", "packets:2", "-a", "files:2")
    lab.append(4)
    assert end(process).returncode == 0
    assert [len(numbers_in(file)) for file in files_in(tmp_path)] == [2, 2]


def test_ring_by_time_begins_a_new_file_and_leaves_none_empty(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-U", "-b", "duration:0.3", "-b", "files:9")
    (first,) = files_in(tmp_path)
    lab.append(3)
    wait_line(process.stderr, "zbuf: writing")  # the second file
    lab.append(2)
    wait_line(process.stderr, "zbuf: writing")
    finish(lab, process)
    found = [numbers_in(file) for file in files_in(tmp_path)]
    assert found == [[0, 1, 2], [3, 4], []]
    assert files_in(tmp_path)[0] == first


def test_interval_ends_a_file_where_the_time_of_day_is_a_multiple_of_it(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-U", "-b", "interval:1")
    lab.append()
    wait_line(process.stderr, "zbuf: writing")
    assert time.time() % 1 < 0.5
    finish(lab, process)
    assert [numbers_in(file) for file in files_in(tmp_path)] == [[0], []]


def test_file_of_a_ring_that_somebody_removed_is_no_error(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-U", "-b", "packets:1", "-b", "files:2")
    files_in(tmp_path)[0].unlink()
    lab.append(4)
    finish(lab, process)
    assert [numbers_in(file) for file in files_in(tmp_path)] == [[2], [3]]


# ---- tcpdump's files ------------------------------------------------------------------------------------------------


def test_size_in_millions_of_bytes_numbers_the_files_from_the_second_on(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-C", "1")
    sent = lab.append(5_000, size=SIZE)
    finish(lab, process)
    names = ["out", "out1", "out2"]
    assert [file.name for file in files_in(tmp_path)] == names
    assert list(itertools.chain(*(numbers_in(tmp_path / name) for name in names))) == sent


def test_size_with_a_number_of_files_is_a_ring_of_the_same_names(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-C", "100k", "-W", "11")
    sent = lab.append(12 * (102_400 // BLOCK), size=SIZE)
    finish(lab, process)
    assert [file.name for file in files_in(tmp_path)] == [f"out{number:02}" for number in range(11)]
    order = [*range(1, 11), 0]
    found = list(itertools.chain(*(numbers_in(tmp_path / f"out{number:02}") for number in order)))
    assert found == sent[-len(found) :]


def test_ring_of_one_file_has_the_name_that_was_said(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    process = dump("-w", tmp_path / "out", "-C", "10k", "-W", "1")
    sent = lab.append(25, size=SIZE)
    finish(lab, process)
    assert [file.name for file in files_in(tmp_path)] == ["out"]
    found = numbers_in(tmp_path / "out")
    assert found == sent[-len(found) :]


def test_strftime_names_the_files_and_so_many_of_them_end_it(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "at-%Y%m%d-%H%M%S", "-U", "-G", "1", "-W", "2")
    lab.append()
    wait_line(process.stderr, "zbuf: writing")
    lab.append()
    done = end(process)
    assert done.returncode == 0, done.stderr
    files = files_in(tmp_path)
    assert [numbers_in(file) for file in files] == [[0], [1]]
    for file in files:
        assert abs(time.mktime(time.strptime(file.name, "at-%Y%m%d-%H%M%S")) - time.time()) < LIMIT_S


def test_size_within_one_strftime_name_numbers_the_files(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "of-%Y", "-C", "1", "-G", "3600")
    lab.append(5_000, size=SIZE)
    finish(lab, process)
    year = time.strftime("%Y")
    assert [file.name for file in files_in(tmp_path)] == [f"of-{year}", f"of-{year}1", f"of-{year}2"]


# ---- ends -----------------------------------------------------------------------------------------------------------


def test_autostop_by_size_ends_before_the_packet_that_would_not_fit(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-a", "filesize:100")
    sent = lab.append(400, size=SIZE)
    done = finish(lab, process)
    found = numbers_in(tmp_path / "out")
    assert found == sent[: len(found)]
    assert 100_000 - BLOCK < (tmp_path / "out").stat().st_size <= 100_000
    assert told(done.stderr)[0] == f"{len(found)} packets captured"


def test_autostop_by_time_takes_what_has_come_by_then(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    began = time.monotonic()
    process = dump("-w", tmp_path / "out", "-a", "duration:0.7")
    lab.append(5)
    assert end(process).returncode == 0
    assert time.monotonic() - began >= 0.7
    assert numbers_in(tmp_path / "out") == [0, 1, 2, 3, 4]


def test_autostop_by_packets_and_count_is_the_less_of_both(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-U", "-a", "packets:9", "-c", "4")
    lab.append(20)
    assert end(process).returncode == 0
    assert numbers_in(tmp_path / "out") == [0, 1, 2, 3]


@pytest.mark.parametrize(("count", "at_once"), [("1", True), ("100", True), ("101", False)])
def test_few_packets_are_handed_over_at_once(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path, count: str, at_once: bool
) -> None:
    process = dump("-w", tmp_path / "out", "-c", count)
    (descriptor,) = lab.descriptors()
    assert descriptor.settings.immediate is at_once
    lab.append(int(count))
    assert end(process).returncode == 0
    assert len(numbers_in(tmp_path / "out")) == int(count)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_it_with_everything_that_was_stored_by_then(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path, number: signal.Signals
) -> None:
    process = dump("-w", tmp_path / "out", "--buffer-size", "4k")
    sent = lab.append(60)  # of which one buffer is full, and the other is not
    process.send_signal(number)
    done = end(process)
    assert done.returncode == 0, done.stderr
    assert told(done.stderr)[0] == f"{len(sent)} packets captured"
    assert numbers_in(tmp_path / "out") == sent


def test_flush_signal_writes_what_is_stored(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    process = dump("-w", tmp_path / "out", "--compress", "gzip", "-C", "1")
    for count in (3, 2):
        sent = lab.append(count)
        process.send_signal(signal.SIGUSR2)
        process.send_signal(signal.SIGUSR1)  # answered after it
        wait_line(process.stderr, f"{sent[-1] + 1} packets captured")
        assert numbers_in(tmp_path / "out") == list(range(sent[-1] + 1))
    finish(lab, process)


def test_statistics_are_at_the_end_of_every_file(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    process = dump("-w", tmp_path / "r.pcapng", "-b", "packets:10")
    lab.append(25)
    finish(lab, process)
    for file in files_in(tmp_path):
        data = file.read_bytes()
        (length,) = struct.unpack_from("<I", data, len(data) - 4)
        assert struct.unpack_from("<I", data, len(data) - length) == (5,)


@pytest.mark.parametrize("wait", ["full", "cut"])
def test_corrupt_buffer_is_an_error_and_what_came_before_is_whole(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path, wait: str
) -> None:
    process = dump("-w", tmp_path / "out", "--buffer-size", "4k")
    sent = lab.append(40)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGUSR1)
    wait_line(process.stderr, "40 packets captured")
    bad = lab.append(2)
    (segment,) = Path("/dev/shm").glob(f"zbuf.{lab.name}.*")
    with segment.open("r+b") as file:
        data = file.read()
        at = data.index(numbered(bad[0])) - 28
        file.seek(at + 4)
        file.write(struct.pack("<I", 0xFFFFFFF0 if wait == "full" else 13))
    process.send_signal(signal.SIGUSR2)
    done = end(process)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("zbuf: ")
    assert numbers_in(tmp_path / "out") == sent


@pytest.fixture
def flooded(lab: Lab) -> Iterator[Lab]:
    """A producer whose packets never end."""
    lab.process.do(
        """
        def flood():
            number = 0
            while not producer.stopped:
                producer.append(numbered(number, 500))
                number += 1
        thread = threading.Thread(target=flood)
        """
    )
    yield lab
    lab.process.do("producer.stop(); thread.join()")


@pytest.mark.slow
def test_dump_that_is_killed_two_hundred_times_leaves_a_file_with_the_first_packets_each_time(
    flooded: Lab, remote: Callable[[], Remote], tmp_path: Path
) -> None:
    dumping = """
        import sys
        from zbuf.consumer.cli import app
        sys.stderr = open(os.devnull, "w")
        app(["dump", name, "-w", path, "--buffer-size", "64k"], standalone_mode=False)
    """
    for number in range(200):
        path = tmp_path / "out"
        process = remote()
        process.begin(dumping, name=flooded.name, path=str(path))
        if number == 0:
            flooded.process.do("producer.wait_readers(1); thread.start()")
        wanted = 1 + 37_171 * number % 3_000_000
        limit = time.monotonic() + LIMIT_S
        while size_of(path) < wanted:
            assert time.monotonic() < limit, f"{wanted} bytes do not come"
        process.kill()
        data = path.read_bytes()
        found = [number_of(data[at : at + 500]) for at in blocks_of(data)]
        assert found == list(range(found[0], found[0] + len(found))) if found else True
        opened = subprocess.run(["tcpdump", "-nn", "-q", "-r", path], capture_output=True, check=False, text=True)
        assert len([line for line in opened.stdout.splitlines() if not line.startswith("\t")]) == len(found)
        path.unlink()


def size_of(path: Path) -> int:
    """The bytes of a file; 0 where there is none, as after the dump has tried whether it can make one."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def blocks_of(data: bytes) -> Iterator[int]:
    """Where the data of each whole packet block is."""
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if at + length > len(data):
            return
        if kind == 6:
            yield at + 28
        at += length


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_compressed_file_can_be_read_while_it_grows_and_when_it_is_over(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "out"
    process = dump("-w", path, "--compress", kind, "--buffer-size", "64k")
    sent = lab.append(3_000)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGUSR1)
    wait_line(process.stderr, "packets captured")
    assert tshark_count(path) == len(sent)
    finish(lab, process)
    assert tshark_count(path) == len(sent)
    unpacked = unpacked_by(kind, path)
    assert [number_of(record.data) for record in read_capture(unpacked).records] == sent
    assert path.stat().st_size < len(unpacked) / 4


def unpacked_by(program: str, path: Path) -> bytes:
    with path.open("rb") as file:
        return subprocess.run([program, "-dc"], stdin=file, capture_output=True, check=True).stdout


def tshark_count(path: Path) -> int:
    done = subprocess.run(["tshark", "-r", path, "-T", "fields", "-e", "frame.len"], capture_output=True, check=True)
    return len(done.stdout.splitlines())


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_full_disk_leaves_a_compressed_file_that_is_whole(
    commands: Commands, lab: Lab, small_disk: Path, kind: str
) -> None:
    out = small_disk / "out"
    lab.process.do("def rubbish():\n    while True: producer.append(os.urandom(1000))")
    process = commands.start("zbuf", "dump", lab.name, "-w", out, "--compress", kind, "--buffer-size", "64k")
    wait_line(process.stderr, "zbuf: reading")
    lab.process.do("threading.Thread(target=rubbish, daemon=True).start()")
    done = end(process)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    unpacked = unpacked_by(kind, out)
    packets = len(read_capture(unpacked).records)
    assert line == f"zbuf: {out}: No space left on device: it holds {packets} packets, and is whole"
    assert packets > 800


def test_file_that_is_there_is_left_alone_where_that_is_asked_for(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    line = error_of(run("zbuf", "dump", lab.name, "-w", out, "--no-clobber"))
    assert line == f"zbuf: {out}: the file exists, and --no-clobber keeps it: choose another name"
    assert out.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_files_belong_to_the_user_that_it_becomes(lab: Lab, dump: Callable[..., Process]) -> None:
    folder = Path("/tmp", f"zbuf-{lab.name}")
    folder.mkdir()
    try:
        folder.chmod(0o777)
        process = dump("-w", folder / "r.pcapng", "-b", "packets:2", "-Z", "nobody")
        lab.append(5)
        finish(lab, process)
        assert [numbers_in(file) for file in files_in(folder)] == [[0, 1], [2, 3], [4]]
        assert {file.stat().st_uid for file in files_in(folder)} == {pwd.getpwnam("nobody").pw_uid}
        line = error_of(run("zbuf", "dump", "-r", folder / files_in(folder)[0], "-Z", "nosuchuser"))
        assert line == "zbuf: user nosuchuser: there is no user of that name"
    finally:
        shutil.rmtree(folder)


def test_packets_of_one_direction(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    process = dump("-w", tmp_path / "out", "-Q", "out")
    lab.append(2, direction="in")
    sent = lab.append(3, direction="out")
    finish(lab, process)
    assert numbers_in(tmp_path / "out") == sent


def test_packets_are_written_one_by_one_where_that_is_asked_for(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-U")
    with connect(lab.name, immediate=True) as reader:
        for number in range(3):
            lab.append()
            assert take(reader, 1) == [number]
            process.send_signal(signal.SIGUSR1)
            wait_line(process.stderr, f"{number + 1} packet{'s' if number else ''} captured")
            assert numbers_in(tmp_path / "out") == list(range(number + 1))


@pytest.mark.parametrize(
    "options",
    [["-a", "duration:1e9"], ["-G", "9" * 30], ["-a", f"filesize:{'9' * 30}"], ["-C", f"{'9' * 30}g"]],
    ids=lambda options: options[0],
)
def test_limit_that_is_never_reached_may_be_of_any_size(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path, options: list[str]
) -> None:
    process = dump("-w", tmp_path / "out%H", *options)
    sent = lab.append(3)
    finish(lab, process)
    (file,) = files_in(tmp_path)
    assert numbers_in(file) == sent


# ---- -r -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, run_dir: Path) -> Path:
    """A capture file, and no producer."""
    del run_dir
    path = tmp_path / "saved.pcap"
    path.write_bytes(pcap([Record(numbered(number), number, 60) for number in range(500)], nanoseconds=True))
    return path


def test_saved_file_is_read_filtered_and_written(saved: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("zbuf", "dump", "-r", saved, "-w", out, "ether[0] < 10")
    assert done.returncode == 0, done.stderr
    assert numbers_in(out) == [number for number in range(500) if number % 256 < 10]
    assert told(done.stderr)[0] == "20 packets captured"
    assert run("zbuf", "ls").stderr.startswith("zbuf: no producer runs in ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_saved_file_is_replayed_by_the_user_that_it_becomes(saved: Path, producer_name: str) -> None:
    folder = Path("/tmp", f"zbuf-{producer_name}")
    folder.mkdir()
    try:
        folder.chmod(0o777)
        shutil.copy(saved, folder / "saved")
        environment = os.environ | {"TMPDIR": str(folder)}
        done = run("zbuf", "dump", "-r", folder / "saved", "-w", folder / "out", "-Z", "nobody", env=environment)
        assert done.returncode == 0, done.stderr
        assert numbers_in(folder / "out") == list(range(500))
        assert [file.name for file in files_in(folder)] == ["out", "saved"]
        (folder / "saved").chmod(0o600)
        line = error_of(run("zbuf", "dump", "-r", folder / "saved", "-Z", "nobody", env=environment))
        assert line == f"zbuf: {folder}/saved: Permission denied"
    finally:
        shutil.rmtree(folder)


def test_saved_file_comes_from_standard_input_and_goes_to_tcpdump(saved: Path) -> None:
    with saved.open("rb") as file:
        dumping = subprocess.Popen(
            command("zbuf", "dump", "-r", "-", "-w", "-", "-c", "7"),
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    reading = subprocess.run(["tcpdump", "-r", "-", "-nn"], stdin=dumping.stdout, capture_output=True, check=True)
    assert dumping.stdout is not None
    dumping.stdout.close()
    assert dumping.wait(LIMIT_S) == 0
    assert len([line for line in reading.stdout.splitlines() if not line.startswith(b"\t")]) == 7


def test_damage_of_a_saved_file_is_told_after_what_is_whole(saved: Path, tmp_path: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-10])
    done = run("zbuf", "dump", "-r", saved, "-w", tmp_path / "out")
    assert numbers_in(tmp_path / "out") == list(range(499))
    assert f"zbuf: {saved}: damaged after 499 whole packets" in done.stderr


def test_file_that_can_not_be_read_is_one_line(saved: Path, tmp_path: Path) -> None:
    assert error_of(run("zbuf", "dump", "-r", tmp_path / "none")) == f"zbuf: {tmp_path}/none: No such file or directory"
    saved.write_text("no capture at all, whatever it is called")
    assert error_of(run("zbuf", "dump", "-r", saved)).startswith(f"zbuf: {saved}: not a capture file")


def test_filter_that_is_refused_names_it_for_a_saved_file_too(saved: Path) -> None:
    assert "no such word" in error_of(run("zbuf", "dump", "-r", saved, "no such word"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_before_a_saved_file_has_come_leaves_nothing_behind(
    commands: Commands, run_dir: Path, tmp_path: Path, number: signal.Signals
) -> None:
    del run_dir
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb"):
        environment = os.environ | {"TMPDIR": str(tmp_path)}
        process = commands.start("zbuf", "dump", "-r", "-", "-w", tmp_path / "out", stdin=reading, env=environment)
        wait_children(process.pid)
        process.send_signal(number)
        assert process.wait(LIMIT_S) == 130
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_replay_of_a_saved_file_ends_with_the_dump(commands: Commands, run_dir: Path, number: signal.Signals) -> None:
    del run_dir
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb", buffering=0) as pipe:
        process = commands.start("zbuf", "dump", "-r", "-", "-w", "/dev/null", stdin=reading)
        pipe.write(pcapng([Record(numbered(1), 1, 60)]))
        (child,) = wait_children(process.pid)
        watch = os.pidfd_open(child)
        try:
            process.send_signal(number)
            assert process.wait(LIMIT_S) in (0, 130, -signal.SIGKILL, -signal.SIGINT)
            assert wait_gone(watch)
        finally:
            os.close(watch)


def wait_children(pid: int) -> list[int]:
    limit = time.monotonic() + LIMIT_S
    while not (found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        assert time.monotonic() < limit, "no child is started"
    return [int(one) for one in found]


def wait_gone(watch: int) -> bool:
    import select

    return bool(select.select([watch], [], [], LIMIT_S)[0])


# ---- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "seconds"),
    [(["-G", "1", "-W", "1"], 1.0), (["-b", "duration:0.3", "-a", "files:2"], 0.6)],
    ids=["tcpdump", "dumpcap"],
)
def test_time_ends_a_dump_to_which_no_packet_comes(
    dump: Callable[..., Process], tmp_path: Path, options: list[str], seconds: float
) -> None:
    began = time.monotonic()
    done = end(dump("-w", tmp_path / "out-%s", *options))
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began >= seconds
    assert told(done.stderr)[-3] == "0 packets captured"
    (file,) = files_in(tmp_path)
    assert numbers_in(file) == []


# ---- -z -------------------------------------------------------------------------------------------------------------


def test_command_is_run_for_each_whole_file_at_the_lowest_priority_and_without_a_shell(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    folder = tmp_path / "with space;exit"
    folder.mkdir()
    told_by, program = tmp_path / "pipe", tmp_path / "program"
    os.mkfifo(told_by)
    program.write_text(f'#!/bin/sh\necho "$#" "$(nice)" "$1" > {told_by}\n')
    program.chmod(0o755)
    with os.fdopen(os.open(told_by, os.O_RDWR), encoding="utf-8") as pipe:
        process = dump("-w", folder / "r", "-C", "10k", "-z", program)
        lab.append(10 * 1024 // BLOCK + 1, size=SIZE)
        finish(lab, process)
        said = sorted(pipe.readline() for _ in range(2))
    assert said == [f"1 19 {folder}/r\n", f"1 19 {folder}/r1\n"]


def test_command_that_compresses_has_the_file_to_itself(lab: Lab, dump: Callable[..., Process], tmp_path: Path) -> None:
    process = dump("-w", tmp_path / "out", "-z", "gzip")
    sent = lab.append(20)
    finish(lab, process)
    limit = time.monotonic() + LIMIT_S
    while [file.name for file in files_in(tmp_path)] != ["out.gz"]:
        assert time.monotonic() < limit, "gzip does not end"
        os.sched_yield()
    assert numbers_in(tmp_path / "out.gz") == sent


# ---- -P -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--compress", "gzip"]], ids=["plain", "gzip"])
def test_classic_pcap_has_the_packets_with_nanoseconds(saved: Path, tmp_path: Path, options: list[str]) -> None:
    done = run("zbuf", "dump", "-r", saved, "-w", tmp_path / "out", "-P", *options)
    assert done.returncode == 0, done.stderr
    data = (tmp_path / "out").read_bytes()
    data = gzip.decompress(data) if options else data
    assert data == saved.read_bytes()


def test_classic_pcap_files_end_at_their_size_and_lose_nothing(
    lab: Lab, dump: Callable[..., Process], tmp_path: Path
) -> None:
    process = dump("-w", tmp_path / "out", "-P", "-C", "100k", "-c", "500")
    sent = lab.append(600, size=SIZE)
    finish(lab, process)
    files = [tmp_path / name for name in ("out", "out1", "out2")]
    assert files_in(tmp_path) == files
    assert list(itertools.chain(*map(numbers_in, files))) == sent[:500]
    for file in files[:-1]:
        assert 102_400 - SIZE - 16 < file.stat().st_size <= 102_400


def test_disk_that_is_full_leaves_a_classic_pcap_file_that_is_whole(saved: Path, small_disk: Path) -> None:
    many = [Record(numbered(number, 1000), number, 1000) for number in range(2000)]
    saved.write_bytes(pcap(many, nanoseconds=True))
    done = run("zbuf", "dump", "-r", saved, "-w", small_disk / "out", "-P")
    assert done.returncode == 1
    found = numbers_in(small_disk / "out")
    assert found == list(range(len(found)))
    assert f"No space left on device: it holds {len(found)} packets, and is whole" in done.stderr


def test_time_that_classic_pcap_has_no_room_for_is_its_last_one(saved: Path, tmp_path: Path) -> None:
    late = 1 << 32
    saved.write_bytes(pcapng([Record(numbered(0), late * 1_000_000_000, 60)]))
    done = run("zbuf", "dump", "-r", saved, "-w", tmp_path / "out", "-P")
    assert done.returncode == 0, done.stderr
    (record,) = read_capture((tmp_path / "out").read_bytes()).records
    assert record.time_ns == late * 1_000_000_000 - 1
    assert "zbuf: packets after the year 2106 have the last time that classic pcap can tell" in done.stderr


def test_classic_pcap_of_several_link_types_is_an_error_and_makes_no_file(
    remote: Callable[[], Remote], producer_name: str, tmp_path: Path
) -> None:
    process = remote()
    process.do("from zbuf.shared.memory.pcapng import Interface")
    process.do("mixed = [Interface('a', 1), Interface('b', 101)]")
    process.do("producer = Producer(name, interfaces=mixed, linger_s=0)", name=producer_name)
    line = error_of(run("zbuf", "dump", producer_name, "-w", tmp_path / "out", "-P"))
    assert line == (
        f"zbuf: {producer_name} has packets of link types 1, 101, and a classic pcap file (-P) holds one: "
        "leave -P out, for pcapng"
    )
    assert files_in(tmp_path) == []


# ---- what is tried beforehand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["-C", "1", "-W", "3"], ["-G", "1"], ["-b", "packets:9"]], ids=" ".join)
def test_file_that_can_not_be_made_is_told_before_there_is_a_reader(
    lab: Lab, tmp_path: Path, options: list[str]
) -> None:
    line = error_of(run("zbuf", "dump", lab.name, "-w", tmp_path / "none" / "out%s", *options))
    assert line.endswith("No such file or directory")
    assert str(tmp_path / "none" / "out") in line
    statistics = lab.process.ask("producer.stats()")
    assert statistics.descriptors == []
    assert statistics.closed.received == 0
    assert lab.process.ask("producer.wait_readers(1, 0)") is False


@pytest.mark.parametrize("write", ["new", "old"])
def test_dump_that_finds_no_producer_leaves_files_as_they_were(producer_name: str, tmp_path: Path, write: str) -> None:
    (tmp_path / "old").write_text("mine")
    assert "no producer" in error_of(run("zbuf", "dump", producer_name, "-w", tmp_path / write))
    assert [file.read_text() for file in files_in(tmp_path)] == ["mine"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up")
def test_file_is_tried_as_the_user_that_it_becomes(producer_name: str) -> None:
    folder = Path("/tmp", f"zbuf-{producer_name}")
    folder.mkdir(0o755)
    try:
        line = error_of(run("zbuf", "dump", producer_name, "-w", folder / "out", "-Z", "nobody"))
        assert line == f"zbuf: {folder}/out: Permission denied"
        assert files_in(folder) == []
    finally:
        shutil.rmtree(folder)


def test_folder_is_no_file(tmp_path: Path, producer_name: str) -> None:
    assert error_of(run("zbuf", "dump", producer_name, "-w", tmp_path)) == f"zbuf: {tmp_path}: Is a directory"


# ---- usage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-b", "filesize:0", "-w", "f"], "filesize:0"),
        (["-b", "filesize:x", "-w", "f"], "filesize:x"),
        (["-b", "size:1", "-w", "f"], "size:1"),
        (["-b", "files:3", "-w", "f"], "says when a file ends"),
        (["-b", "duration:0", "-w", "f"], "more than 0"),
        (["-b", "duration:1", "-b", "duration:2", "-w", "f"], "twice"),
        (["-b", "filesize:1"], "-w FILE"),
        (["-b", "filesize:1", "-w", "-"], "standard output"),
        (["-b", "filesize:1", "-C", "1", "-w", "f"], "choose one"),
        (["-b", "filesize:1", "-a", "filesize:1", "-w", "f"], "-a filesize"),
        (["-a", "files:1", "-w", "f"], "-a files"),
        (["-w", ""], "-w ''"),
        (["-a", "filesize:1"], "-w FILE"),
        (["-a", "interval:1", "-w", "f"], "interval:1"),
        (["-C", "0", "-w", "f"], "-C '0'"),
        (["-C", "1x", "-w", "f"], "1x"),
        (["-C", "1"], "-w FILE"),
        (["-G", "0", "-w", "%s"], "-G"),
        (["-G", "1", "-w", "f"], "put a time into it"),
        (["-W", "3", "-w", "f"], "-W"),
        (["-W", "3", "-C", "1", "-G", "1", "-w", "%s"], "-W"),
        (["-W", "3", "-C", "1", "--no-clobber", "-w", "f"], "--no-clobber"),
        (["--compress", "gzip"], "-w FILE"),
        (["-P"], "-w FILE"),
        (["-z", "gzip"], "-w FILE"),
        (["-z", "gzip", "-w", "-"], "standard output"),
        (["-z", "no-such-program", "-w", "f"], "no such program"),
        (["--compress", "lzma", "-w", "f"], "lzma"),
        (["-Q", "up", "-w", "f"], "up"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_each_other_or_make_no_sense_are_usage_errors(
    tmp_path: Path, options: list[str], said: str
) -> None:
    assert said in error_of(run("zbuf", "dump", "lab", *options, cwd=tmp_path), 2)
    assert files_in(tmp_path) == []
