"""Bad input to zbufd and zbuf: one line of error that names the value, and the exit status."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap, pcapng
from support.commands import Commands, command, end, error_of, run, told, wait_line
from support.processes import LIMIT_S, take_all
from support.replays import COUNT, numbers_in, records, replay_and_dump, start_replay

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import Producer
from zbuf.shared import control

pytestmark = pytest.mark.usefixtures("run_dir")


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


@pytest.mark.parametrize("make", [pcap, pcapng], ids=["pcap", "pcapng"])
def test_file_cut_short_mid_packet_gives_what_is_whole_and_a_warning_with_the_offset(
    commands: Commands, producer_name: str, tmp_path: Path, make: Callable[[list[Record]], bytes]
) -> None:
    image = make(records(10))
    whole = len(make(records(9)))
    (tmp_path / "cut").write_bytes(image[: whole + 30])
    replay, dump = replay_and_dump(commands, producer_name, tmp_path / "cut", "-w", tmp_path / "out")
    assert (replay.returncode, dump.returncode) == (1, 0)
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
        ("2G", 1, "buffer size 2147483648"),
        ("99999999999999999999G", 1, "is more than the maximum"),
        ("x", 2, "--buffer-size 'x'"),
        ("-4096", 2, "--buffer-size '-4096'"),
        ("1.5M", 2, "--buffer-size '1.5M'"),
        ("", 2, "--buffer-size ''"),
    ],
)
def test_buffer_size_that_can_not_be_is_named(
    producer_name: str, numbered_pcap: Path, size: str, status: int, said: str
) -> None:
    assert said in error_of(
        run("zbufd", "replay", numbered_pcap, "--name", producer_name, "--buffer-size", size), status
    )
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
    producer_name: str, numbered_pcap: Path, small_shm: list[str]
) -> None:
    line = [*small_shm, *command("zbufd", "replay", numbered_pcap, "--name", producer_name, "--buffer-size", "1M")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert re.search(r"two buffers need 2097152 bytes of shared memory, /dev/shm has 1048576 free", error_of(done))


def test_reader_whose_buffers_dev_shm_has_no_room_for_is_refused_and_the_producer_goes_on(
    producer_name: str, numbered_pcap: Path, small_shm: list[str]
) -> None:
    line = [*small_shm, *command("zbufd", "replay", numbered_pcap, "--name", producer_name, "--buffer-size", "64k")]
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
def test_name_that_can_not_be_is_named(numbered_pcap: Path, name: str) -> None:
    if name:  # the empty one is the same as none to zbufd
        assert repr(name[:60])[1:-1] in error_of(run("zbufd", "replay", numbered_pcap, "--name", name))
    for action in (["dump"], ["stats"]):
        assert "producer name " in error_of(run("zbuf", *action, "--", name))


@pytest.mark.parametrize("action", ["dump", "stats"])
def test_producer_that_is_not_there_is_named_with_those_that_are(producer_name: str, action: str) -> None:
    line = error_of(run("zbuf", action, "nobody"))
    assert re.match(r"zbuf: no producer 'nobody' runs in \S+: start it with zbufd", line)
    with Producer(producer_name):
        assert f"(there is: {producer_name})" in error_of(run("zbuf", action, "nobody"))


def test_producer_that_is_there_already_is_told_and_comes_to_no_harm(
    commands: Commands, producer_name: str, numbered_pcap: Path
) -> None:
    first = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "1")
    line = error_of(run("zbufd", "replay", numbered_pcap, "--name", producer_name))
    assert line.startswith(f"zbufd: producer '{producer_name}' runs already in ")
    with connect(producer_name) as reader:
        assert take_all(reader) == list(range(COUNT))
    assert end(first).returncode == 0


def test_run_directory_that_can_not_be_made_is_named(numbered_pcap: Path) -> None:
    for directory in (str(numbered_pcap), f"{numbered_pcap}/below", "/proc/nowhere"):
        line = error_of(run("zbufd", "replay", numbered_pcap, "--run-dir", directory))
        assert line.startswith(f"zbufd: run directory {directory}: ")
        assert "--run-dir" in line


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, where it runs as root")
def test_run_directory_that_may_not_be_written_is_named(numbered_pcap: Path, run_dir: Path) -> None:
    run_dir.chmod(0o555)
    line = command("zbufd", "replay", numbered_pcap)
    if os.geteuid() == 0:
        line = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *line]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert error_of(done).startswith(f"zbufd: run directory {run_dir}: no permission to write")


def test_run_directory_whose_path_is_too_long_for_a_socket_is_told(numbered_pcap: Path) -> None:
    assert "longer than 107 bytes: use a shorter --run-dir" in error_of(
        run("zbufd", "replay", numbered_pcap, "--run-dir", "/tmp/" + "x" * 110)
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
        (["zbuf", "dump", "x", "-c", "0"], "-c"),
        (["zbuf", "dump", "x", "-s", "262145"], "-s"),
        (["zbuf", "dump", "x", "-s", "wide"], "wide"),
        (["zbuf", "dump", "x", "--wait-producer", "-1"], "--wait-producer"),
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
        "zbuf stats [OPTIONS] [NAME]",
        "zbuf measure [OPTIONS] [NAME] [FILTER...]",
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
    commands: Commands, producer_name: str, numbered_pcap: Path, run_dir: Path
) -> None:
    replay = start_replay(commands, producer_name, numbered_pcap, "--wait-readers", "1")
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
    refused = told(done.stderr)
    assert 0 < len(refused) <= 6
    assert all(line.startswith("zbufd: refused user ") for line in refused)


Spoil = Callable[[bytearray], object]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda image: image.__setitem__(slice(0, 8), b"NOT ZBUF"), "foreign segment: it begins with b'NOT ZBUF'"),
        (lambda image: image.__setitem__(slice(8, 12), b"\7\0\0\0"), "segment of ABI 7, this is ABI 2"),
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
            assert said in error_of(run("zbuf", "dump", producer_name, "-w", os.devnull))
        finally:
            thread.join(LIMIT_S)
            for fd in fds:
                os.close(fd)


def test_control_characters_of_a_file_s_name_get_into_neither_messages_nor_report(
    producer_name: str, run_dir: Path, tmp_path: Path, numbered_pcap: Path
) -> None:
    del run_dir
    path, report = tmp_path / "a\x1b[31m\nzbufd: forged\r\x9b.pcap", tmp_path / "report.html"
    path.write_bytes(numbered_pcap.read_bytes()[:-1])
    done = run("zbufd", "replay", path, "--name", producer_name, "--report", report)
    assert done.returncode == 1
    assert r"a\x1b[31m\nzbufd: forged\r\x9b.pcap" in done.stderr
    for text in (done.stdout, done.stderr, report.read_text()):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        assert not re.search("^zbufd: forged", text, re.MULTILINE)
