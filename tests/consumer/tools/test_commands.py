"""zbufd and zbuf as their users have them: real processes, their lines, their files, their exit codes."""

import contextlib
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, again, pcap, pcapng, read_capture, sample
from support.commands import Commands, Done, Process, command, end, error_of, run, tcpdump, told, wait_line
from support.processes import LIMIT_S, number_of, numbered, take_all
from support.rig import wait_until

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.reader import Reader
from zbuf.producer import Producer
from zbuf.shared import control

PAGE = 4096
COUNT = 1000
"""Packets in the file `lab`."""
LEDGER = ("received", "filtered", "accepted", "delivered", "dropped", "abandoned", "buffered", "truncated")


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    """All of these tests have a run directory of their own."""
    return run_dir


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A capture of numbered packets."""
    path = tmp_path / "lab.pcap"
    path.write_bytes(pcap(records(COUNT), nanoseconds=True))
    return path


def records(count: int) -> list[Record]:
    return [Record(numbered(number), 1_700_000_000_000_000_000 + number, 60) for number in range(count)]


def numbers_in(path: Path) -> list[int]:
    """The numbers of the packets in a file; the file must be whole."""
    return [number_of(record.data) for record in read_capture(path.read_bytes()).records]


def adds_up(ledger: dict[str, int]) -> bool:
    accepted = ledger["delivered"] + ledger["dropped"] + ledger["abandoned"] + ledger["buffered"]
    return ledger["received"] == ledger["filtered"] + ledger["accepted"] and ledger["accepted"] == accepted


def start_replay(commands: Commands, name: str, path: Path, *options: str) -> Process:
    """zbufd replay, ready for readers."""
    process = commands.start("zbufd", "replay", path, "--name", name, *options)
    wait_line(process.stderr, f"{name} ready in")
    return process


def start_dump(commands: Commands, name: str, *options: str | Path, **more: Any) -> Process:
    """zbuf dump, which waits for its producer."""
    return commands.start("zbuf", "dump", name, "--wait-producer", "20", *options, **more)


def replay_and_dump(commands: Commands, name: str, path: Path, *options: str | Path) -> tuple[Done, Done]:
    """A lossless replay with its report in JSON, and a dump of it: what became of both."""
    dump = start_dump(commands, name, *options)
    replay = commands.start(
        "zbufd", "replay", path, "--name", name, "--wait-readers", "1", "--lossless", "--json"
    )  # fmt: skip
    return end(replay), end(dump)


def wait_until_some_are_delivered(name: str) -> None:
    with Connection(name) as connection:
        while not any(one.delivered for one in connection.stats().descriptors):
            os.sched_yield()


def wait_for_readers(name: str, count: int) -> None:
    with Connection(name) as connection:
        while sum(len(one.readers) for one in connection.stats().descriptors) < count:
            os.sched_yield()


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["pcap", pytest.param("scapy", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (None, "No such file or directory"),
        (b"", ""),
        (b"#!/bin/sh\nexit 0\n" + bytes(100), ""),
        (b"\xd4\xc3\xb2", ""),
        (pcap([])[:20], ""),
        (b"\x1f\x8b but not gzip at all", ""),
    ],
    ids=["missing", "empty", "no-capture", "magic-cut", "header-cut", "no-gzip"],
)
def test_file_that_is_no_capture_is_one_line_of_error(
    tmp_path: Path, engine: str, image: bytes | None, reason: str
) -> None:
    path = tmp_path / "bad.pcap"
    if image is not None:
        path.write_bytes(image)
    line = error_of(run("zbufd", "replay", path, "--engine", engine))
    assert line.startswith(f"zbufd: {path}: ")
    assert reason in line


def test_directory_given_as_a_capture_is_named(tmp_path: Path) -> None:
    assert error_of(run("zbufd", "replay", tmp_path)) == f"zbufd: {tmp_path}: a directory, not a capture file"


def test_file_of_another_link_type_is_named(tmp_path: Path) -> None:
    for name, linktype in (("a", 1), ("b", 101)):
        (tmp_path / name).write_bytes(pcap(records(1), linktype=linktype))
    line = error_of(run("zbufd", "replay", tmp_path / "a", tmp_path / "b"))
    assert line.startswith(f"zbufd: {tmp_path}/b: link type 101, where {tmp_path}/a has 1")


@pytest.mark.parametrize("make", [pcap, pcapng], ids=["pcap", "pcapng"])
def test_file_cut_short_mid_packet_gives_what_is_whole_and_a_warning_with_the_offset(
    commands: Commands, producer_name: str, tmp_path: Path, make: Callable[[list[Record]], bytes]
) -> None:
    image = make(records(10))
    whole = len(make(records(9)))
    (tmp_path / "cut").write_bytes(image[: whole + 30])
    replay, dump = replay_and_dump(commands, producer_name, tmp_path / "cut", "-w", tmp_path / "out")
    assert (replay.returncode, dump.returncode) == (0, 0)
    assert numbers_in(tmp_path / "out") == list(range(9))
    report = json.loads(replay.stdout)
    assert report["packets"] == 9
    (warning,) = report["warnings"]
    assert told(replay.stderr) == [f"zbufd: {warning}"]
    assert warning.startswith(f"{tmp_path}/cut: ")
    offset = re.search(r"byte (\d+)", warning)
    assert offset is not None, warning
    assert whole <= int(offset[1]) <= whole + 30


def test_filter_that_does_not_compile_is_told_with_libpcaps_message(producer_name: str) -> None:
    with Producer(producer_name) as producer:
        line = error_of(run("zbuf", "dump", producer_name, "tcp prot 80"))
        assert line.startswith("zbuf: filter 'tcp prot 80': ")
        assert "syntax error" in line
        assert producer.append(b"abc")


@pytest.mark.parametrize(
    ("size", "status", "said"),
    [
        ("0", 1, "buffer size 0"),
        ("4097", 1, "buffer size 4097"),
        ("2G", 1, "buffer size 2147483648"),
        ("99999999999999999999G", 1, "is more than the maximum"),
        ("x", 2, "--buffer-size 'x'"),
        ("-4096", 2, "--buffer-size '-4096'"),
        ("1.5M", 2, "--buffer-size '1.5M'"),
        ("", 2, "--buffer-size ''"),
    ],
)
def test_buffer_size_that_can_not_be_is_named(producer_name: str, lab: Path, size: str, status: int, said: str) -> None:
    assert said in error_of(run("zbufd", "replay", lab, "--name", producer_name, "--buffer-size", size), status)
    with Producer(producer_name):
        assert said in error_of(run("zbuf", "dump", producer_name, "--buffer-size", size), status)


@pytest.fixture
def small_shm() -> list[str]:
    """The beginning of a command that has a /dev/shm of 1 MiB."""
    head = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*head, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root, to mount a small /dev/shm")
    return head


def test_buffers_that_dev_shm_has_no_room_for_are_told_with_what_is_free(
    producer_name: str, lab: Path, small_shm: list[str]
) -> None:
    line = [*small_shm, *command("zbufd", "replay", lab, "--name", producer_name, "--buffer-size", "1M")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert re.search(r"two buffers need 2097152 bytes of shared memory, /dev/shm has 1048576 free", error_of(done))


def test_reader_whose_buffers_dev_shm_has_no_room_for_is_refused_and_the_producer_goes_on(
    producer_name: str, lab: Path, small_shm: list[str]
) -> None:
    line = [*small_shm, *command("zbufd", "replay", lab, "--name", producer_name, "--buffer-size", "64k")]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*line, "--wait-readers", "1", "--json"], **pipes) as replay:
        try:
            wait_line(replay.stderr, "ready in")
            refused = run("zbuf", "dump", producer_name, "--buffer-size", "1M")
            assert re.search(r"two buffers need \d+ bytes of shared memory, /dev/shm has \d+ free", error_of(refused))
            with connect(producer_name) as reader:
                assert take_all(reader) == list(range(COUNT))
            assert end(replay).returncode == 0
        finally:
            replay.kill()


@pytest.mark.parametrize("name", ["a/b", "x" * 49, "../up", "", " ", "-"])
def test_name_that_can_not_be_is_named(lab: Path, name: str) -> None:
    if name:  # the empty one is the same as none to zbufd
        assert repr(name[:60])[1:-1] in error_of(run("zbufd", "replay", lab, "--name", name))
    for action in (["dump"], ["stats"]):
        assert "producer name " in error_of(run("zbuf", *action, "--", name))


@pytest.mark.parametrize("action", ["dump", "stats"])
def test_producer_that_is_not_there_is_named_with_those_that_are(producer_name: str, action: str) -> None:
    line = error_of(run("zbuf", action, "nobody"))
    assert re.match(r"zbuf: no producer 'nobody' runs in \S+: start it with zbufd", line)
    with Producer(producer_name):
        assert f"(there is: {producer_name})" in error_of(run("zbuf", action, "nobody"))


def test_producer_that_is_there_already_is_told_and_comes_to_no_harm(
    commands: Commands, producer_name: str, lab: Path
) -> None:
    first = start_replay(commands, producer_name, lab, "--wait-readers", "1")
    line = error_of(run("zbufd", "replay", lab, "--name", producer_name))
    assert line.startswith(f"zbufd: producer '{producer_name}' runs already in ")
    with connect(producer_name) as reader:
        assert take_all(reader) == list(range(COUNT))
    assert end(first).returncode == 0


def test_run_directory_that_can_not_be_made_is_named(lab: Path) -> None:
    for directory in (str(lab), f"{lab}/below", "/proc/nowhere"):
        line = error_of(run("zbufd", "replay", lab, "--run-dir", directory))
        assert line.startswith(f"zbufd: run directory {directory}: ")
        assert "--run-dir" in line


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, where it runs as root")
def test_run_directory_that_may_not_be_written_is_named(lab: Path, run_dir: Path) -> None:
    run_dir.chmod(0o555)
    line = command("zbufd", "replay", lab)
    if os.geteuid() == 0:
        line = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *line]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert error_of(done).startswith(f"zbufd: run directory {run_dir}: no permission to write")


def test_run_directory_whose_path_is_too_long_for_a_socket_is_told(lab: Path) -> None:
    assert "longer than 107 bytes: use a shorter --run-dir" in error_of(
        run("zbufd", "replay", lab, "--run-dir", "/tmp/" + "x" * 110)
    )


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["zbufd", "replay"], "FILE"),
        (["zbufd", "replay", "x", "--loop", "-1"], "--loop"),
        (["zbufd", "replay", "x", "--loop", "often"], "often"),
        (["zbufd", "replay", "x", "--engine", "magic"], "magic"),
        (["zbufd", "replay", "x", "--wait-readers", "-1"], "--wait-readers"),
        (["zbufd", "replay", "x", "--linger", "-1"], "--linger"),
        (["zbufd", "replay", "x", "--preload-limit", "much"], "much"),
        (["zbufd", "replay", "x", "--bogus"], "--bogus"),
        (["zbufd", "bogus"], "bogus"),
        (["zbuf", "dump"], "NAME"),
        (["zbuf", "dump", "x", "-c", "0"], "-c"),
        (["zbuf", "dump", "x", "-s", "262145"], "-s"),
        (["zbuf", "dump", "x", "-s", "wide"], "wide"),
        (["zbuf", "dump", "x", "--wait-producer", "-1"], "--wait-producer"),
        (["zbuf", "stats"], "NAME"),
        (["zbuf", "stats", "x", "--bogus"], "--bogus"),
        (["zbuf", "ls", "x"], "x"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_usage_that_is_wrong_is_one_line_with_the_value_and_exit_code_2(arguments: list[str], value: str) -> None:
    name, *rest = arguments
    line = error_of(run(name, *rest), 2)
    assert value in line
    asked = [name] if rest == ["bogus"] else [name, rest[0]]
    assert line.endswith(f"(see {' '.join(asked)} --help)")


@pytest.mark.parametrize(
    "usage",
    [
        "zbuf dump [OPTIONS] [NAME [FILTER...]]",
        "zbuf top [OPTIONS] [NAME...]",
        "zbuf stats [OPTIONS] NAME",
        "zbuf measure [OPTIONS] NAME [FILTER...]",
        "zbufd replay [OPTIONS] FILE...",
    ],
)
def test_help_says_arguments_as_other_tools_do(usage: str) -> None:
    name, command_name, *_ = usage.split()
    done = run(name, command_name, "--help")
    assert done.stdout.splitlines()[0] == f"Usage: {usage}"
    assert "<str>" not in done.stdout
    assert "<list" not in done.stdout


@pytest.mark.parametrize("name", ["zbufd", "zbuf"])
def test_command_without_arguments_shows_its_help_in_lines(name: str) -> None:
    done = run(name)
    assert done.returncode in (0, 2)
    assert "\nCommands:\n" in done.stdout + done.stderr


def test_output_file_that_can_not_be_made_is_named(producer_name: str, tmp_path: Path) -> None:
    with Producer(producer_name):
        for path in (tmp_path / "no" / "file", tmp_path):
            assert error_of(run("zbuf", "dump", producer_name, "-w", path)).startswith(f"zbuf: {path}: ")


def test_group_that_is_there_with_other_settings_is_named(producer_name: str) -> None:
    with Producer(producer_name), connect(producer_name, join="ids"):
        line = error_of(run("zbuf", "dump", producer_name, "--join", "ids", "tcp"))
        assert line.startswith("zbuf: descriptor 'ids' is there with other settings")


def test_rubbish_on_the_control_socket_is_refused_and_everybody_else_goes_on(
    commands: Commands, producer_name: str, lab: Path, run_dir: Path
) -> None:
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "1")
    with connect(producer_name) as reader:
        for rubbish in (b"GET / HTTP/1.1\r\n", b"{}", b'{"type":"rotate"}', b"x" * 20_000, b"\xff\xfe", b"[" * 5000):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.settimeout(LIMIT_S)
                client.connect(str(run_dir / f"{producer_name}.sock"))
                client.send(rubbish)
                assert isinstance(control.decode_answer(client.recv(65536)), control.Refusal)
        assert take_all(reader) == list(range(COUNT))
    done = end(replay)
    assert done.returncode == 0
    assert told(done.stderr) == []


Spoil = Callable[[bytearray], object]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda image: image.__setitem__(slice(0, 8), b"NOT ZBUF"), "foreign segment: it begins with b'NOT ZBUF'"),
        (lambda image: image.__setitem__(slice(8, 12), b"\7\0\0\0"), "segment of ABI 7, this is ABI 1"),
        (lambda image: image.clear(), "segment of 0 bytes"),
        (lambda image: image.__delitem__(slice(100, None)), "segment of 100 bytes"),
        (lambda image: image.__delitem__(slice(8192, None)), "segment cut short"),
    ],
    ids=["foreign", "abi", "nothing", "too-short", "cut"],
)
def test_segment_that_is_none_of_ours_is_told_by_what_it_is(
    producer_name: str, run_dir: Path, spoil: Spoil, said: str
) -> None:
    with Producer(producer_name), Connection(producer_name) as connection:
        answer, fds = connection.request(control.Connect(), descriptors=3)
        image = bytearray(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
    spoil(image)
    fds.append(os.memfd_create("spoilt"))
    os.pwrite(fds[3], image, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.settimeout(LIMIT_S)
        listening.bind(str(run_dir / f"{producer_name}.sock"))
        listening.listen()

        def serve() -> None:
            with listening.accept()[0] as client:
                client.recv(65536)
                socket.send_fds(client, [control.encode(answer)], [fds[3], fds[1], fds[2]])
                client.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            assert said in error_of(run("zbuf", "dump", producer_name))
        finally:
            thread.join(LIMIT_S)
            for fd in fds:
                os.close(fd)


# ---- dump -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--join", "ids"], ["--immediate-mode"]], ids=["private", "join", "immediate"])
def test_dump_writes_a_file_with_every_packet_and_ends_with_the_producer(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path, options: list[str]
) -> None:
    out = tmp_path / "out.pcapng"
    replay, dump = replay_and_dump(commands, producer_name, lab, "-w", out, *options)
    assert (replay.returncode, dump.returncode) == (0, 0)
    assert read_capture(out.read_bytes()).records == records(COUNT)
    assert tcpdump(out) == tcpdump(lab)
    assert len(tcpdump(out)) == COUNT
    assert dump.stdout == ""
    assert told(dump.stderr) == [
        f"{COUNT} packets captured",
        f"{COUNT} packets received by filter",
        "0 packets dropped by zbuf",
    ]


def test_dump_to_standard_output_is_the_file(commands: Commands, producer_name: str, lab: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        dump = start_dump(commands, producer_name, "-w", "-", stdout=out)
        replay = commands.start("zbufd", "replay", lab, "--name", producer_name, "--wait-readers", "1")
        assert (end(dump).returncode, end(replay).returncode) == (0, 0)
    assert read_capture((tmp_path / "out").read_bytes()).records == records(COUNT)


def test_count_ends_the_dump_after_exactly_so_many_packets(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay, dump = replay_and_dump(commands, producer_name, lab, "-w", out, "-c", "7")
    assert (replay.returncode, dump.returncode) == (0, 0)
    assert numbers_in(out) == list(range(7))
    assert told(dump.stderr)[0] == "7 packets captured"
    (ledger,) = json.loads(replay.stdout)["descriptors"]
    assert adds_up(ledger)


def test_count_that_ends_in_a_later_buffer_is_exact_too(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _, dump = replay_and_dump(commands, producer_name, lab, "-w", out, "-c", "200", "--buffer-size", "4k")
    assert dump.returncode == 0
    assert numbers_in(out) == list(range(200))


def test_snapshot_length_cuts_packets_and_keeps_their_length_on_the_wire(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay, dump = replay_and_dump(commands, producer_name, lab, "-w", out, "-s", "20")
    assert "snapshot length 20 bytes" in dump.stderr
    assert read_capture(out.read_bytes()).records == [Record(one.data[:20], one.time_ns, 60) for one in records(COUNT)]
    assert json.loads(replay.stdout)["descriptors"][0]["truncated"] == COUNT


def test_snapshot_length_of_zero_is_the_largest_as_in_tcpdump(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    _, dump = replay_and_dump(commands, producer_name, lab, "-w", tmp_path / "out", "-s", "0")
    assert "snapshot length 262144 bytes" in dump.stderr
    assert len(numbers_in(tmp_path / "out")) == COUNT


@pytest.mark.parametrize("words", [["ether[0] = 3"], ["ether[0]", "=", "3"]], ids=["one-argument", "several"])
def test_filter_of_the_command_line_chooses_packets(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path, words: list[str]
) -> None:
    replay, dump = replay_and_dump(commands, producer_name, lab, "-w", tmp_path / "out", *words)
    expected = list(range(3, COUNT, 256))
    assert numbers_in(tmp_path / "out") == expected
    assert told(dump.stderr)[0] == f"{len(expected)} packets captured"
    (ledger,) = json.loads(replay.stdout)["descriptors"]
    assert (ledger["received"], ledger["accepted"]) == (COUNT, len(expected))


@pytest.mark.slow
def test_dump_without_a_file_prints_a_line_for_each_packet(
    commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    frame = bytes.fromhex("ffffffffffff0200000000010806") + bytes.fromhex("00010800060400010200000000010a000001")
    frame += bytes.fromhex("0000000000000a000002")
    (tmp_path / "arp").write_bytes(pcap([Record(frame, 1_700_000_000_000_001_000 + n * 1000, 60) for n in range(3)]))
    replay, dump = replay_and_dump(commands, producer_name, tmp_path / "arp")
    assert (replay.returncode, dump.returncode) == (0, 0)
    lines = dump.stdout.splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(rf"\d\d:\d\d:20\.00000{number}000 .*ARP who has 10\.0\.0\.2.*, length 60", line)


@pytest.mark.slow
def test_what_dissects_is_there_before_there_is_a_descriptor(producer_name: str, run_dir: Path) -> None:
    del run_dir
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = run("zbuf", "dump", producer_name, env=environment)
    *imported, line = done.stderr.splitlines()
    assert f"no producer {producer_name!r} runs" in line
    assert any(one.endswith(" scapy.all") for one in imported)


def test_packets_of_rubbish_are_a_line_each_all_the_same(
    commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    found = sample(1000)
    (tmp_path / "rubbish").write_bytes(pcap(found))
    _, dump = replay_and_dump(commands, producer_name, tmp_path / "rubbish")
    assert dump.returncode == 0
    assert len(dump.stdout.splitlines()) == len(found)


def test_dump_says_that_the_producer_died_and_has_everything(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    replay = start_replay(commands, producer_name, lab, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", out)
    wait_for_readers(producer_name, 1)
    wait_until_some_are_delivered(producer_name)
    replay.kill()
    done = end(dump)
    assert done.returncode == 0
    found = numbers_in(out)
    assert found == [(found[0] + number) % COUNT for number in range(len(found))]
    assert told(done.stderr)[:2] == [
        "zbuf: the producer died; everything that it had appended is here",
        f"{len(found)} packets captured",
    ]


def test_producer_that_does_not_come_in_time_is_an_error(producer_name: str) -> None:
    line = error_of(run("zbuf", "dump", producer_name, "--wait-producer", "0.01"))
    assert line.startswith(f"zbuf: no producer '{producer_name}' runs in ")


def test_two_dumps_that_join_have_both_all_packets(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    dumps = [start_dump(commands, producer_name, "--join", "g", "-w", tmp_path / one) for one in ("a", "b")]
    replay = commands.start(
        "zbufd", "replay", lab, "--name", producer_name, "--wait-readers", "2", "--lossless", "--json"
    )  # fmt: skip
    assert [end(one).returncode for one in dumps] == [0, 0]
    (ledger,) = json.loads(end(replay).stdout)["descriptors"]
    assert (ledger["join"], ledger["delivered"]) == ("g", COUNT)
    for out in ("a", "b"):
        assert numbers_in(tmp_path / out) == list(range(COUNT))


def test_file_has_the_ledger_of_several_files_as_one_capture(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.pcap").write_bytes(pcap(records(5)))
    dump = start_dump(commands, producer_name, "-w", tmp_path / "out")
    replay = commands.start(
        "zbufd", "replay", lab, tmp_path / "more.pcap", "--name", producer_name, "--wait-readers", "1"
    )  # fmt: skip
    assert (end(replay).returncode, end(dump).returncode) == (0, 0)
    found = read_capture((tmp_path / "out").read_bytes())
    assert found.names == ["lab.pcap", "more.pcap"]
    assert [one.interface for one in found.records] == [0] * COUNT + [1] * 5


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_dump_makes_one_write_for_each_buffer(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path
) -> None:
    out, trace = tmp_path / "out", tmp_path / "trace"
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "2", "--lossless")
    with connect(producer_name, join="g", buffer_size=PAGE) as reader:
        line = command("zbuf", "dump", producer_name, "--join", "g", "-w", out)
        dump = subprocess.Popen(["strace", "-f", "-e", "trace=write", "-P", out, "-o", trace, *line])
        try:
            buffers = sum(1 for _ in reader.buffers())
            assert dump.wait(LIMIT_S) == 0
        finally:
            dump.kill()
            dump.wait()
    assert end(replay).returncode == 0
    writes = re.findall(r"write\(.* = (\d+)$", trace.read_text(), re.MULTILINE)
    assert buffers >= 24
    assert len(writes) == 1 + buffers + 1  # the prologue, the buffers, the statistics
    assert sum(map(int, writes)) == out.stat().st_size


# ---- ends -----------------------------------------------------------------------------------------------------------

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


@SIGNALS
def test_signal_ends_a_replay_in_good_order(
    commands: Commands, producer_name: str, lab: Path, run_dir: Path, number: int
) -> None:
    replay = start_replay(commands, producer_name, lab, "--loop", "0", "--json")
    with connect(producer_name) as reader:
        assert reader.next_buffer(LIMIT_S) is not None
        replay.send_signal(number)
        for _ in reader.buffers():
            pass
        assert reader.end_reason == "closed"
    done = end(replay)
    assert done.returncode == 0
    assert told(done.stderr) == []
    report = json.loads(done.stdout)
    assert report["packets"] >= report["descriptors"][0]["received"] > 0
    assert adds_up(report["descriptors"][0])
    assert list(run_dir.iterdir()) == []


@SIGNALS
def test_signal_ends_the_wait_for_readers(commands: Commands, producer_name: str, lab: Path, number: int) -> None:
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "1", "--json")
    replay.send_signal(number)
    done = end(replay)
    assert done.returncode == 0
    assert told(done.stderr) == []
    assert json.loads(done.stdout)["packets"] == 0


@SIGNALS
def test_signal_ends_a_busy_dump_with_a_whole_file_and_its_counts(
    commands: Commands, producer_name: str, lab: Path, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    start_replay(commands, producer_name, lab, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", out)
    wait_for_readers(producer_name, 1)
    wait_until_some_are_delivered(producer_name)
    dump.send_signal(number)
    done = end(dump)
    assert done.returncode == 0
    found = numbers_in(out)
    assert found == [(found[0] + at) % COUNT for at in range(len(found))]
    assert len(tcpdump(out)) == len(found)
    said = told(done.stderr)
    assert said[0] == f"{len(found)} packets captured"
    assert int(said[1].split()[0]) >= len(found)
    assert said[1].endswith(" packets received by filter")
    assert said[2] == "0 packets dropped by zbuf"


@SIGNALS
def test_signal_ends_a_dump_that_waits_with_what_came_so_far(
    commands: Commands, producer_name: str, tmp_path: Path, number: int
) -> None:
    out = tmp_path / "out"
    with Producer(producer_name) as producer:
        dump = commands.start("zbuf", "dump", producer_name, "-w", out)
        assert producer.wait_readers(1, LIMIT_S)
        for packet in range(5):
            producer.append(numbered(packet))
        while sum(one.delivered for one in producer.stats().descriptors) < 5:
            os.sched_yield()
        dump.send_signal(number)
        done = end(dump)
    assert done.returncode == 0
    assert numbers_in(out) == list(range(5))
    assert told(done.stderr)[:2] == ["5 packets captured", "5 packets received by filter"]


@SIGNALS
def test_signal_right_after_the_first_line_of_a_dump_ends_it_in_good_order(
    commands: Commands, producer_name: str, number: int
) -> None:
    with Producer(producer_name):
        dump = commands.start("zbuf", "dump", producer_name)  # without -w it has scapy to import after that line
        wait_line(dump.stderr, "reading")
        dump.send_signal(number)
        done = end(dump)
    assert done.returncode == 0, done.stderr
    assert told(done.stderr)[0] == "0 packets captured"


def test_dump_into_a_pipe_that_breaks_is_quiet(commands: Commands, producer_name: str, lab: Path) -> None:
    start_replay(commands, producer_name, lab, "--loop", "0", "--lossless")
    dump = start_dump(commands, producer_name, "-w", "-")
    assert dump.stdout is not None
    assert os.read(dump.stdout.fileno(), 4)
    dump.stdout.close()
    assert dump.wait(LIMIT_S) in (0, 1)
    assert dump.stderr is not None
    assert told(dump.stderr.read()) == []


@pytest.mark.parametrize("action", [["ls"], ["ls", "--json"], ["stats"], ["stats", "--json"]], ids=" ".join)
def test_table_into_a_pipe_that_is_broken_is_quiet(producer_name: str, action: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    name = [producer_name] if action[0] == "stats" else []
    try:
        with Producer(producer_name), connect(producer_name):
            line = command("zbuf", *action, *name)
            done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, check=False, text=True, timeout=LIMIT_S)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("action", "closed", "status"),
    [
        ("ls --json", ">&-", 0),
        ("top --once", "<&- >&- 2>&-", 0),
        ("dump -r FILE", ">&- 2>&-", 0),
        ("dump -r FILE -w -", ">&-", 0),
        ("dump -r - -w /dev/null", "<&-", 1),
    ],
)
def test_standard_stream_that_is_closed_is_as_good_as_dev_null(
    lab: Path, run_dir: Path, action: str, closed: str, status: int
) -> None:
    del run_dir
    words = command("zbuf", *action.replace("FILE", str(lab)).split())
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *words]
    done = subprocess.run(line, capture_output=True, check=False, text=True, timeout=LIMIT_S)
    assert done.returncode == status, done.stderr
    assert len(told(done.stderr)) <= 3  # counts, or an error
    assert done.stdout == ""


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_report_into_a_pipe_that_is_broken_is_quiet(lab: Path, producer_name: str, options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        line = command("zbufd", "replay", lab, "--name", producer_name, *options)
        done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, check=False, text=True, timeout=LIMIT_S)
    finally:
        os.close(writing)
    assert done.returncode in (0, 1)
    assert told(done.stderr) == []


@pytest.mark.parametrize("size", ["64k", "2M"])
def test_full_disk_is_one_line_beside_the_counts_and_what_was_written_is_a_whole_file(
    commands: Commands, producer_name: str, lab: Path, small_disk: Path, size: str
) -> None:
    out = small_disk / "out"
    replay = start_replay(commands, producer_name, lab, "--loop", "0", "--lossless", "--wait-readers", "1")
    done = end(start_dump(commands, producer_name, "-w", out, "--buffer-size", size))
    assert replay.poll() is None  # it goes on without that reader
    found = numbers_in(out)
    counts, line = told(done.stderr)[:-1], told(done.stderr)[-1]
    assert done.returncode == 1
    assert line == f"zbuf: {out}: No space left on device: it holds {len(found)} packets, and is whole"
    assert (len(counts), counts[0]) == (3, f"{len(found)} packets captured")
    assert found == [at % COUNT for at in range(len(found))]
    assert len(tcpdump(out)) == len(found)
    assert out.stat().st_size > (1 << 20) - PAGE  # as many as there was room for


def test_full_device_is_one_line(commands: Commands, producer_name: str, lab: Path) -> None:
    replay = start_replay(commands, producer_name, lab, "--loop", "0")
    done = run("zbuf", "dump", producer_name, "-w", "/dev/full")
    assert done.returncode == 1
    assert told(done.stderr)[-1] == "zbuf: /dev/full: No space left on device: nothing is written"
    assert replay.poll() is None


# ---- ls and stats ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_statistics_add_up_at_every_call_while_it_runs(commands: Commands, producer_name: str, lab: Path) -> None:
    start_replay(commands, producer_name, lab, "--loop", "0")
    start_dump(commands, producer_name, "-w", "/dev/null", "--buffer-size", "64k")
    start_dump(commands, producer_name, "-w", "/dev/null", "-s", "20", "ether[0] = 3")
    with connect(producer_name, buffer_size=PAGE):
        wait_for_readers(producer_name, 3)
        received = [0, 0, 0]
        for _ in range(5):
            done = run("zbuf", "stats", producer_name, "--json")
            assert (done.returncode, done.stderr) == (0, "")
            found = json.loads(done.stdout)
            assert found["producer"] == producer_name
            assert len(found["descriptors"]) == 3
            for at, one in enumerate(found["descriptors"]):
                assert set(LEDGER) <= set(one)
                assert adds_up(one)
                assert one["received"] > received[at]
                received[at] = one["received"]
            slow = next(one for one in found["descriptors"] if one["settings"]["buffer_bytes"] == PAGE)
            assert slow["dropped"] > slow["buffered"] > 0
            listed = json.loads(run("zbuf", "ls", "--json").stdout)
            assert [one["producer"] for one in listed] == [producer_name]
            assert all(adds_up(one) for one in listed[0]["descriptors"])


def test_statistics_for_people_show_the_same_counts(producer_name: str) -> None:
    with Producer(producer_name, linger_s=0) as producer, connect(producer_name, filter="len > 100"):
        for size in (60, 200, 300):
            producer.append(numbered(1, size))
        done = run("zbuf", "stats", producer_name)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{producer_name}: pid {os.getpid()}, ")
    assert lines[0].endswith("link-type 1, " + producer_name + ": 3 packets offered")
    assert lines[1].split() == ["descriptor", "filter", *LEDGER]
    assert lines[2].split()[-8:] == ["3", "1", "2", "0", "0", "0", "2", "0"]
    assert lines[4].split()[-5:] == [pwd.getpwuid(os.getuid()).pw_name, "0", "0", "0", "0"]


def test_statistics_for_people_have_the_sums_of_readers_that_have_left(producer_name: str) -> None:
    with Producer(producer_name, linger_s=0) as producer:
        with connect(producer_name):
            producer.append(b"packet")
        wait_until(lambda: not producer.stats().descriptors)
        lines = run("zbuf", "stats", producer_name).stdout.splitlines()
    assert lines[1].split() == ["descriptor", "filter", *LEDGER]
    assert lines[2].split() == ["closed", "1", "0", "1", "0", "0", "1", "0", "0"]
    assert lines[3:] == ["no reader is connected"]


def test_a_filter_that_somebody_else_made_up_is_shown_in_one_line_with_nothing_that_a_terminal_obeys(
    producer_name: str,
) -> None:
    with Producer(producer_name, linger_s=0), connect(producer_name, filter="ether host 0:a:b:c:d:e\nor ip6"):
        done = run("zbuf", "stats", producer_name)
    assert r"ether host 0:a:b:c:d:e\nor ip6" in done.stdout.splitlines()[2]


def test_ls_lists_the_producers_and_none_that_is_dead(commands: Commands, producer_name: str, lab: Path) -> None:
    dead = start_replay(commands, f"{producer_name}dead", lab, "--wait-readers", "1")
    dead.kill()
    dead.wait()
    with Producer(f"{producer_name}b"), Producer(f"{producer_name}a"):
        done = run("zbuf", "ls")
    assert (done.returncode, done.stderr) == (0, "")
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["name", "pid", "up", "interfaces", "descriptors", "readers", "offered", "dropped"]
    assert [row.split()[0] for row in rows] == [f"{producer_name}a", f"{producer_name}b"]


def test_the_command_has_one_thread_though_numpy_would_have_one_for_each_processor() -> None:
    program = "import os, zbuf.__main__; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_ls_without_producers_says_so_and_is_an_empty_list_in_json() -> None:
    done = run("zbuf", "ls")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "zbuf: no producer runs\n")
    done = run("zbuf", "ls", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_run_directory_is_taken_from_the_option_before_the_environment(producer_name: str, run_dir: Path) -> None:
    with Producer(producer_name, run_dir=run_dir / "b"):
        assert json.loads(run("zbuf", "ls", "--json").stdout) == []
        found = json.loads(run("zbuf", "ls", "--json", "--run-dir", run_dir / "b").stdout)
        assert [one["producer"] for one in found] == [producer_name]


# ---- replay ---------------------------------------------------------------------------------------------------------


def received_by(reader: Reader) -> list[int]:
    with reader:
        return take_all(reader)


@pytest.mark.parametrize("loops", [1, 3])
def test_report_in_json_has_the_packets_of_all_loops_and_adds_up(
    commands: Commands, producer_name: str, lab: Path, loops: int
) -> None:
    replay = start_replay(
        commands, producer_name, lab, "--loop", str(loops), "--wait-readers", "1", "--lossless", "--json"
    )
    assert received_by(connect(producer_name, buffer_size=PAGE)) == loops * list(range(COUNT))
    done = end(replay)
    assert (done.returncode, told(done.stderr)) == (0, [])
    report = json.loads(done.stdout)
    assert (report["producer"], report["packets"], report["warnings"]) == (producer_name, loops * COUNT, [])
    assert report["packets_per_second"] > 0
    (ledger,) = report["descriptors"]
    assert adds_up(ledger)
    counts = {name: ledger[name] for name in LEDGER}
    everything = loops * COUNT
    assert counts == dict.fromkeys(LEDGER, 0) | dict.fromkeys(("received", "accepted", "delivered"), everything)


def test_report_for_people_has_the_counts(commands: Commands, producer_name: str, lab: Path) -> None:
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "1")
    received_by(connect(producer_name, filter="ether[0] = 3"))
    first, heading, row = end(replay).stdout.splitlines()
    assert re.fullmatch(r"1,000 packets offered in \d+\.\d{3} s: [\d,]+ packets/s", first)
    assert heading.split() == ["descriptor", "filter", *LEDGER]
    assert row.split()[-8:] == ["1,000", "996", "4", "4", "0", "0", "0", "0"]


def test_replay_to_nobody_says_so(lab: Path) -> None:
    done = run("zbufd", "replay", lab)
    assert (done.returncode, told(done.stderr)) == (0, [])
    assert done.stdout.splitlines()[1:] == ["no reader was connected"]


@pytest.mark.parametrize("file", ["lab.pcap", "lab.7.pcapng.gz", "a b%c.cap", "noext"])
def test_name_is_the_stem_of_the_first_file_by_default(tmp_path: Path, file: str) -> None:
    expected = {"lab.pcap": "lab", "lab.7.pcapng.gz": "lab.7", "a b%c.cap": "a_b_c", "noext": "noext"}[file]
    (tmp_path / file).write_bytes(pcap(records(1)))
    (tmp_path / "z.pcap").write_bytes(pcap(records(1)))
    done = run("zbufd", "replay", tmp_path / file, tmp_path / "z.pcap")
    assert re.match(rf"zbufd: {re.escape(expected)} ready in ", done.stderr)
    assert done.returncode == 0


def test_replay_begins_once_enough_readers_are_there(commands: Commands, producer_name: str, lab: Path) -> None:
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "2")
    with connect(producer_name) as first:
        assert first.next_buffer(timeout=0.15) is None  # longer than the read timeout, which would assign packets
        assert first.stats().offered == 0
        with connect(producer_name) as second:
            assert take_all(first) == list(range(COUNT))
            assert take_all(second) == list(range(COUNT))
    assert end(replay).returncode == 0


def test_buffer_size_is_that_of_readers_who_do_not_say(commands: Commands, producer_name: str, lab: Path) -> None:
    replay = start_replay(commands, producer_name, lab, "--buffer-size", "64k", "--wait-readers", "2", "--json")
    first, second = connect(producer_name), connect(producer_name, buffer_size=2 * PAGE)
    with first, second:
        for _ in zip(first.buffers(), second.buffers(), strict=False):
            pass
    sizes = [one["settings"]["buffer_bytes"] for one in json.loads(end(replay).stdout)["descriptors"]]
    assert sorted(sizes) == [2 * PAGE, 64 << 10]


def test_replay_that_is_not_lossless_drops_what_a_slow_reader_has_no_room_for(
    commands: Commands, producer_name: str, lab: Path
) -> None:
    replay = start_replay(commands, producer_name, lab, "--wait-readers", "2", "--linger", "0", "--json")
    with connect(producer_name, buffer_size=PAGE) as reader, Connection(producer_name) as starter:
        _, fds = starter.request(control.Connect(), descriptors=3)  # the second reader, which reads nothing
        for fd in fds:
            os.close(fd)
        done = end(replay)
        assert take_all(reader) == list(range(86))
    assert told(done.stderr) == [f"zbufd: {producer_name}: readers have not taken everything within 0 s"]
    ledger, _ = json.loads(done.stdout)["descriptors"]
    assert (ledger["received"], ledger["buffered"], ledger["dropped"]) == (COUNT, 86, COUNT - 86)


@pytest.mark.slow
def test_scapy_engine_gives_the_same_packets(commands: Commands, producer_name: str, lab: Path) -> None:
    options = ["--engine", "scapy", "--loop", "2", "--wait-readers", "1", "--lossless", "--json"]
    replay = start_replay(commands, producer_name, lab, *options)
    with connect(producer_name) as reader:
        found = [(bytes(packet), packet.time_ns, packet.wirelen) for packet in reader]
    assert found == [(one.data, one.time_ns, one.wirelen) for one in again(records(COUNT), 2)]
    done = end(replay)
    assert (done.returncode, told(done.stderr), json.loads(done.stdout)["packets"]) == (0, [], 2 * COUNT)


def test_standard_input_is_a_file_called_stdin(commands: Commands, lab: Path) -> None:
    with lab.open("rb") as file:
        replay = commands.start("zbufd", "replay", "-", "--wait-readers", "1", stdin=file)
        line = wait_line(replay.stderr, "ready in")
        assert line.startswith("zbufd: stdin ready in")
        assert received_by(connect("stdin")) == list(range(COUNT))
    assert end(replay).returncode == 0


def test_file_beyond_the_preload_limit_is_streamed_and_looped(
    commands: Commands, producer_name: str, lab: Path
) -> None:
    options = ["--preload-limit", "1k", "--loop", "2", "--wait-readers", "1", "--lossless", "--json"]
    replay = start_replay(commands, producer_name, lab, *options)
    assert received_by(connect(producer_name)) == 2 * list(range(COUNT))
    assert json.loads(end(replay).stdout)["packets"] == 2 * COUNT


# ---- progress -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: our end, and that of the command."""
    ours, theirs = os.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)
        os.close(theirs)


def wait_text(fd: int, pattern: str) -> str:
    """Wait until a terminal shows something."""
    shown = b""
    while select.select([fd], [], [], LIMIT_S)[0]:
        shown += os.read(fd, 4096)
        if re.search(pattern, shown.decode(errors="replace")):
            return shown.decode(errors="replace")
    raise AssertionError(f"{pattern!r} is not in {shown!r}")


def test_progress_is_shown_on_a_terminal(commands: Commands, producer_name: str, lab: Path) -> None:
    with terminal() as (ours, theirs):
        options = ["--name", producer_name, "--loop", "0", "--wait-readers", "1"]
        replay = commands.start("zbufd", "replay", lab, *options, stderr=theirs, env=os.environ | {"TERM": "xterm"})
        wait_text(ours, f"{re.escape(producer_name)}: waiting for 1 readers?")
        with connect(producer_name):
            wait_text(ours, rf"{re.escape(producer_name)}: [\d,]+ packets, [\d,]+ packets/s")
        replay.send_signal(signal.SIGINT)
        assert replay.wait(LIMIT_S) == 0


def test_no_progress_is_shown_off_a_terminal(commands: Commands, producer_name: str, lab: Path) -> None:
    replay = start_replay(commands, producer_name, lab, "--loop", "0")
    with connect(producer_name) as reader:
        first = reader.next_buffer(LIMIT_S)
        assert first is not None
        assert first.packets
    replay.send_signal(signal.SIGINT)
    done = end(replay)
    assert told(done.stderr) == []
    assert "\x1b" not in done.stdout + done.stderr
