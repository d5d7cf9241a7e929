"""zbuf extcap: what it answers to Wireshark, what real tshark makes of it, and how it is installed."""

import contextlib
import functools
import os
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.captures import read_capture
from support.commands import Commands, command, run, wait_line
from support.processes import LIMIT_S, Lab, Remote, number_of

from zbuf import __version__
from zbuf.consumer import connect
from zbuf.consumer.tools.extcap.install import MARKER

Process = subprocess.Popen[str]

VERSION = f"extcap {{version={__version__}}}{{help=https://www.wireshark.org/docs/man-pages/extcap.html}}"
TIME_NS = 1_700_000_000_123_456_789
UDP, TCP = 17, 6
PACKET, STATISTICS = 6, 5  # pcapng's types of blocks
ZBUF = os.fsdecode(command("zbuf")[0])

pytestmark = pytest.mark.usefixtures("run_dir")


def extcap(*options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return run("zbuf", "extcap", *options, **more)


def answer(*options: str, **more: Any) -> list[str]:
    """The lines of an answer; nothing may be said on stderr."""
    done = extcap(*options, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def error_of(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line of error of a command that failed as it should."""
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("zbuf: ")
    return line


def ip(protocol: int, number: int = 0) -> bytes:
    """An Ethernet frame with IPv4 and eight bytes of that protocol."""
    head = f"020000000002 020000000001 0800 4500001c 00000000 40{protocol:02x}0000 0a000001 0a000002"
    return bytes.fromhex(head) + number.to_bytes(2, "big") + bytes.fromhex("0007 0008 0000")


# ---- answers --------------------------------------------------------------------------------------------------------


def test_interfaces_are_the_producers_that_run(remote: Callable[[], Remote], producer_name: str) -> None:
    assert answer("--extcap-interfaces") == [VERSION]
    names = [f"{producer_name}@b", f"{producer_name}:a"]
    for name, interfaces in zip(names, (["eth0", "wlan0"], ["a{b}=\u00e4"]), strict=True):
        Lab(remote(), name, interfaces=interfaces)
    c_locale = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert answer("--extcap-interfaces", "--extcap-version=4.0", env=c_locale) == [
        VERSION,
        f"interface {{value=zbuf-{names[1]}}}{{display=zbuf: {names[1]} (a_b_=\u00e4)}}",
        f"interface {{value=zbuf-{names[0]}}}{{display=zbuf: {names[0]} (eth0, wlan0)}}",
    ]


@pytest.mark.parametrize(
    ("linktype", "said"),
    [
        (1, "dlt {number=1}{name=EN10MB}{display=Ethernet}"),
        (101, "dlt {number=12}{name=RAW}{display=Raw IP}"),
        (276, "dlt {number=276}{name=LINUX_SLL2}{display=Linux cooked v2}"),
        (299, "dlt {number=299}{name=DLT299}{display=Link type 299}"),
    ],
)
def test_dlt_is_that_of_the_producers_link_type(
    linktype: int, said: str, remote: Callable[[], Remote], producer_name: str
) -> None:
    Lab(remote(), producer_name, linktype=linktype)
    assert answer("--extcap-interface", f"zbuf-{producer_name}", "--extcap-dlts") == [said]


def sentences(lines: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """Sentences as Wireshark takes them apart, with its own regular expression."""
    return [
        (line.split()[0], dict(re.findall(r"\{([a-zA-Z_-]*?)\=(.*?)\}(?=\{|$|\s)", line.partition(" ")[2])))
        for line in lines
    ]


def test_everything_that_can_be_set_is_taken_by_a_capture(lab: Lab, commands: Commands, fifo: Path) -> None:
    said = sentences(answer("--extcap-interface", f"zbuf-{lab.name}", "--extcap-config"))
    arguments = {one["number"]: one for kind, one in said if kind == "arg"}
    assert [one["call"] for one in arguments.values()] == [
        "--join", "--snaplen", "--buffer-size", "--direction", "--immediate",
    ]  # fmt: skip
    given = {"--join": "all", "--buffer-size": "64k"}
    for kind, one in said:
        if kind == "value" and one["default"] == "true":
            given[arguments[one["arg"]]["call"]] = one["value"]
    given |= {one["call"]: one["default"] for one in arguments.values() if "default" in one}
    assert re.search(arguments["2"]["validation"], given["--buffer-size"])
    assert given.keys() == {one["call"] for one in arguments.values()}

    options = [text for pair in given.items() for text in pair]
    with capturing(commands, lab, fifo, *options):
        (descriptor,) = lab.descriptors()
        settings = descriptor.settings
        assert (descriptor.join, settings.snaplen, settings.buffer_bytes) == ("all", 262144, 65536)
        assert (settings.direction, settings.immediate) == ("inout", True)


def test_answers_come_though_wireshark_says_what_is_not_known(lab: Lab) -> None:
    interface = ["--extcap-interface", f"zbuf-{lab.name}"]
    unknown = ["--log-level", "debug", "--log-file=/nonexistent", "--extcap-control-in", "a", "--extcap-control-out=b"]
    config = answer(*interface, "--extcap-config")
    assert answer(*interface, "--extcap-config", "--extcap-reload-option", "join", *unknown) == config
    assert len(answer(*unknown, *interface, "--extcap-dlts")) == 1
    assert answer("--extcap-interfaces", *unknown)[0] == VERSION


def test_a_filter_is_checked_by_the_producer(lab: Lab) -> None:
    question = ["--extcap-interface", f"zbuf-{lab.name}", "--extcap-capture-filter"]
    assert answer(*question, "udp port 53") == []
    assert answer(*question, "") == []
    (complaint,) = answer(*question, "udp port no such")
    assert "'udp port no such'" in complaint
    (complaint,) = answer(*question, "not " * 2000 + "udp")
    assert "8003 characters" in complaint
    lab.wait_descriptors(0)


def test_a_producer_that_takes_nobody_gives_no_verdict_on_a_filter(
    remote: Callable[[], Remote], producer_name: str
) -> None:
    process = remote()
    process.do("full = Limits(descriptors=0)")
    process.do("producer = Producer(name, limits=full)", name=producer_name)
    done = extcap("--extcap-interface", f"zbuf-{producer_name}", "--extcap-capture-filter", "udp port no such")
    assert "all 0 descriptors of this producer are in use" in error_of(done)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ([], 2, "give --install or --uninstall"),
        (["--install", "--uninstall"], 2, "choose one"),
        (["--extcap-interface", "zbuf-none"], 2, "--extcap-interface needs --capture"),
        (["--extcap-interface", "zbuf-none", "--capture"], 2, "--capture needs --fifo"),
        (["--extcap-interface", "eth0", "--extcap-dlts"], 1, "interface 'eth0' is not one of zbuf's"),
        (["--extcap-interface", "zbuf-none", "--extcap-dlts"], 1, "no producer 'none' runs"),
        (["--extcap-interface", "zbuf-/", "--extcap-capture-filter", ""], 1, "producer name '/' can't be used"),
        (["--extcap-interface", "zbuf-none", "--capture", "--fifo", "/nonexistent"], 1, "/nonexistent: No such file"),
        (["--extcap-interface", "zbuf-none", "--capture", "--fifo", __file__], 1, "is not a fifo"),
        (["--extcap-interface", "zbuf-none", "--capture", "--fifo", "x", "--snaplen", "0"], 2, "'0' is not a whole"),
        (["--extcap-interface", "zbuf-none", "--capture", "--fifo", "x", "--buffer-size", "1T"], 2, "'1T' is not a"),
    ],
)  # fmt: skip
def test_errors_are_one_line(options: list[str], status: int, said: str) -> None:
    assert said in error_of(extcap(*options), status)


def test_scapy_is_not_imported() -> None:
    code = "import sys, zbuf.consumer.cli; sys.exit('scapy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- into a fifo ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def start_capture(commands: Commands, name: str, fifo: Path, *options: str) -> Process:
    return commands.start("zbuf", "extcap", "--capture", "--extcap-interface", f"zbuf-{name}", "--fifo", fifo, *options)


@contextlib.contextmanager
def capturing(commands: Commands, lab: Lab, fifo: Path, *options: str) -> Iterator[tuple[Process, int]]:
    """A capture whose reader is there, and the end of the fifo that Wireshark has; killed at the end."""
    process = start_capture(commands, lab.name, fifo, *options)
    with open(os.open(fifo, os.O_RDONLY), "rb", buffering=0) as reading:
        lab.wait_descriptors(1)
        yield process, reading.fileno()


def read_all(fd: int) -> bytes:
    """Everything to the end."""
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def ended_quietly(process: Process) -> bool:
    out, said = process.communicate(timeout=LIMIT_S)
    return (process.returncode, out, said) == (0, "", "")


def is_full(fifo: Path) -> bool:
    """Whether there is no room in a fifo."""
    with open(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as writing:
        room = select.poll()
        room.register(writing, select.POLLOUT)
        return not room.poll(0)


def wait(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < limit, f"{what}: that does not come"


def numbers_in(image: bytes) -> list[int]:
    return [number_of(one.data) for one in read_capture(image).records]


def block_kinds(image: bytes) -> list[int]:
    """The types of the whole blocks of a file that may not be all there."""
    found, offset = [], 0
    while len(image) - offset >= 8:
        kind, length = struct.unpack_from("<II", image, offset)
        if len(image) - offset < length:
            break
        found.append(kind)
        offset += length
    return found


def read_packets(fd: int, count: int, image: bytes = b"") -> bytes:
    """Read on until as many packets are there."""
    while block_kinds(image).count(PACKET) < count:
        part = os.read(fd, 1 << 16)
        assert part, f"{count} packets do not come"
        image += part
    return image


def test_packets_come_at_once_and_to_the_end_of_the_stream(lab: Lab, commands: Commands, fifo: Path) -> None:
    with capturing(commands, lab, fifo) as (process, fd):
        image = b""
        for number in range(3):
            lab.append()
            image = read_packets(fd, number + 1, image)  # each before the next is there
        lab.close()
        image += read_all(fd)
    assert ended_quietly(process)
    assert numbers_in(image) == [0, 1, 2]
    assert block_kinds(image).count(STATISTICS) == 1


def test_a_capture_of_several_interfaces_has_no_statistics_since_nobody_can_tell_whose(
    remote: Callable[[], Remote], producer_name: str, commands: Commands, fifo: Path
) -> None:
    lab = Lab(remote(), producer_name, interfaces=["a", "b"])
    with capturing(commands, lab, fifo) as (process, fd):
        numbers = lab.append(2, interface=1)
        lab.process.do("producer.close()")
        image = read_all(fd)
    assert ended_quietly(process)
    assert (numbers_in(image), block_kinds(image).count(STATISTICS)) == (numbers, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_capture_with_a_whole_file(number: int, lab: Lab, commands: Commands, fifo: Path) -> None:
    with capturing(commands, lab, fifo) as (process, fd):
        numbers = lab.append(3)
        image = read_packets(fd, 3)
        process.send_signal(number)
        image += read_all(fd)
    assert ended_quietly(process)
    assert numbers_in(image) == numbers
    assert block_kinds(image).count(STATISTICS) == 1
    lab.wait_descriptors(0)


def test_a_signal_ends_a_capture_whose_fifo_nobody_opens(lab: Lab, commands: Commands, fifo: Path) -> None:
    process = start_capture(commands, lab.name, fifo)
    wait(lambda: handles(process.pid, signal.SIGTERM), "its handler")
    process.terminate()
    assert ended_quietly(process)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal of its own."""
    (caught,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_a_signal_ends_a_capture_whose_fifo_is_full(lab: Lab, commands: Commands, fifo: Path) -> None:
    with capturing(commands, lab, fifo) as (process, _):
        fill(lab, fifo)
        process.terminate()
        assert ended_quietly(process)
    lab.wait_descriptors(0)


def fill(lab: Lab, fifo: Path) -> None:
    """Append packets until the fifo, which nobody reads, has no room for more."""
    limit = time.monotonic() + LIMIT_S
    while not is_full(fifo):
        assert time.monotonic() < limit
        lab.append(10, size=1500)


@pytest.mark.parametrize("full", [False, True])
def test_a_closed_fifo_ends_a_capture_though_no_packet_comes(
    full: bool, lab: Lab, commands: Commands, fifo: Path
) -> None:
    with capturing(commands, lab, fifo) as (process, fd):
        lab.append()
        read_packets(fd, 1)
        if full:
            fill(lab, fifo)
    assert ended_quietly(process)
    lab.wait_descriptors(0)


def test_a_killed_producers_packets_all_come_and_then_a_line_says_so(lab: Lab, commands: Commands, fifo: Path) -> None:
    with capturing(commands, lab, fifo, "--immediate", "false") as (process, fd):
        numbers = lab.append(5)
        lab.kill()
        image = read_all(fd)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (1, f"zbuf: {lab.name} died; everything that it had appended is here\n")
    assert numbers_in(image) == numbers


def test_a_filter_that_does_not_compile_ends_the_fifo_too(lab: Lab, commands: Commands, fifo: Path) -> None:
    process = start_capture(commands, lab.name, fifo, "--extcap-capture-filter", "udp and")
    with open(fifo, "rb") as reading:
        assert reading.read() == b""
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert re.fullmatch(r"zbuf: .*'udp and'.*\n", said)


def test_a_group_is_joined_as_it_is(lab: Lab, commands: Commands, fifo: Path) -> None:
    as_wireshark = ["--join", "all", "--snaplen", "262144", "--direction", "inout", "--immediate", "true"]
    with (
        connect(lab.name, join="all", buffer_size=8192) as other,
        capturing(commands, lab, fifo, *as_wireshark) as (process, fd),
    ):
        wait(lambda: len(lab.descriptors()[0].readers) == 2, "a second reader")
        numbers = lab.append(3)
        lab.process.begin("producer.close()")
        image = read_all(fd)
        assert [number_of(packet) for packet in other] == numbers
    assert ended_quietly(process)
    assert numbers_in(image) == numbers


@pytest.mark.slow
def test_losses_are_counted_to_the_packet_in_tshark(lab: Lab, commands: Commands, fifo: Path, tmp_path: Path) -> None:
    with capturing(commands, lab, fifo, "--buffer-size", "8192") as (process, fd):
        fill(lab, fifo)
        lab.append(300)
        images: list[bytes] = []
        reading = threading.Thread(target=lambda: images.append(read_all(fd)))
        reading.start()
        wait(lambda: lab.descriptors()[0].buffered == 0, "the last of them")
        lab.append()
        (descriptor,) = lab.descriptors()
        lab.close()
        reading.join(LIMIT_S)
    assert ended_quietly(process)
    path = tmp_path / "lossy.pcapng"
    path.write_bytes(images[0])
    done = subprocess.run(
        ["tshark", "-r", path, "-T", "fields", "-e", "frame.drop_count"], capture_output=True, text=True, check=True
    )
    counts = [int(line or 0) for line in done.stdout.splitlines()]
    assert sum(counts) == descriptor.dropped > 0
    assert len(counts) + sum(counts) == descriptor.received


# ---- tshark ---------------------------------------------------------------------------------------------------------


class Wireshark:
    """tshark with a home of its own, where zbuf extcap is installed, or will be."""

    def __init__(self, home: Path, commands: Commands) -> None:
        self.home = home
        self._commands = commands
        for folder in ("home", "tmp"):
            (home / folder).mkdir()
        own = {"HOME": home / "home", "XDG_CONFIG_HOME": home / "config", "TMPDIR": home / "tmp"}
        self.environment = {**os.environ, **{name: str(path) for name, path in own.items()}, "LC_ALL": "C.UTF-8"}

    @functools.cached_property
    def script(self) -> Path:
        """Where tshark 4.0 and older look, which do not say so, or newer ones do, which do."""
        done = self.run("tshark", "-G", "folders")
        newer = re.search(r"^Personal Extcap path:\s+(.+)$", done.stdout, re.MULTILINE)
        return (Path(newer[1]) if newer else self.home / "config/wireshark/extcap") / "zbuf"

    def run(self, *line: str | Path | bytes, **more: Any) -> subprocess.CompletedProcess[str]:
        options: Any = {"env": self.environment, "timeout": LIMIT_S, "stdin": subprocess.DEVNULL} | more
        return subprocess.run(
            line, capture_output=True, text=True, check=False, **options
        )  # fmt: skip

    def zbuf(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(*command("zbuf", "extcap", *options), **more)

    def install(self) -> "Wireshark":
        done = self.zbuf("--install")
        assert done.returncode == 0, done.stderr
        return self

    def interfaces(self) -> list[str]:
        """tshark -D, without the numbers"""
        done = self.run("tshark", "-D")
        assert done.returncode == 0, done.stderr
        return [line.partition(". ")[2] for line in done.stdout.splitlines()]

    def tshark(self, name: str, *options: str) -> Process:
        """tshark -i, started"""
        pipe = subprocess.PIPE
        return self._commands.adopt(
            subprocess.Popen(
                ["tshark", "-l", "-i", f"zbuf-{name}", *options],
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                text=True,
                env=self.environment,
            )
        )


@pytest.fixture
def wireshark(tmp_path: Path, commands: Commands) -> Wireshark:
    home = tmp_path / "wireshark"
    home.mkdir()
    return Wireshark(home, commands)


def tshark_end(process: Process) -> tuple[int, list[list[str]], str]:
    """Exit status, fields, and what it said."""
    out, said = process.communicate(timeout=LIMIT_S)
    return process.returncode, [line.split("\t") for line in out.splitlines()], said


@pytest.mark.slow
def test_tshark_lists_a_capture_and_reads_it_to_the_nanosecond(
    remote: Callable[[], Remote], producer_name: str, wireshark: Wireshark
) -> None:
    lab = Lab(remote(), producer_name + "@b:c+d-0._", interfaces=["eth9"])
    assert f"zbuf-{lab.name} (zbuf: {lab.name} (eth9))" in wireshark.install().interfaces()
    fields = ["-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.interface_name"]
    reading = wireshark.tshark(lab.name, "-c", "3", "-T", "fields", *fields)
    lab.wait_descriptors(1)
    for number in range(3):
        lab.append(size=60 + number, time_ns=TIME_NS + number)
    status, lines, said = tshark_end(reading)
    assert lines == [[f"1700000000.{123456789 + number}", f"{60 + number}", "eth9"] for number in range(3)]
    assert status == 0
    assert "rror" not in said
    lab.wait_descriptors(0)


@pytest.mark.slow
def test_tshark_filters_and_ends_with_the_producer(lab: Lab, wireshark: Wireshark) -> None:
    reading = wireshark.install().tshark(lab.name, "-f", "udp", "-T", "fields", "-e", "ip.proto", "-e", "udp.srcport")
    lab.wait_descriptors(1)
    for number in range(6):
        lab.process.do("producer.append(data)", data=ip(TCP if number % 2 else UDP, number))
    assert lab.descriptors()[0].filtered == 3
    lab.close()
    status, lines, said = tshark_end(reading)
    assert lines == [["17", "0"], ["17", "2"], ["17", "4"]]
    assert status == 0
    assert "rror" not in said


@pytest.mark.slow
def test_tshark_tells_of_a_filter_that_does_not_compile(lab: Lab, wireshark: Wireshark) -> None:
    status, _, said = tshark_end(wireshark.install().tshark(lab.name, "-f", "udp and and"))
    assert status != 0
    assert re.search(r"Error by extcap pipe: zbuf: .*'udp and and'", said)


@pytest.mark.slow
def test_tshark_tells_of_a_producers_death(lab: Lab, wireshark: Wireshark) -> None:
    reading = wireshark.install().tshark(lab.name, "-T", "fields", "-e", "frame.len")
    lab.wait_descriptors(1)
    lab.append(2)
    wait(lambda: lab.descriptors()[0].delivered == 2, "two packets that are delivered")
    lab.kill()
    _, lines, said = tshark_end(reading)
    assert lines == [["60"], ["60"]]
    assert f"zbuf: {lab.name} died" in said


@pytest.mark.slow
def test_statistics_arrive_in_a_file_that_tshark_writes(lab: Lab, wireshark: Wireshark, tmp_path: Path) -> None:
    path = tmp_path / "written.pcapng"
    reading = wireshark.install().tshark(lab.name, "-w", str(path))
    lab.wait_descriptors(1)
    numbers = lab.append(3)
    lab.close()
    assert tshark_end(reading)[0] == 0
    assert numbers_in(path.read_bytes()) == numbers
    assert STATISTICS in block_kinds(path.read_bytes())


@pytest.mark.slow
def test_interrupted_tshark_leaves_no_reader_and_no_process(lab: Lab, wireshark: Wireshark) -> None:
    reading = wireshark.install().tshark(lab.name, "-T", "fields", "-e", "frame.len")
    lab.wait_descriptors(1)
    ((reader,),) = [one.readers for one in lab.descriptors()]
    lab.append()
    wait_line(reading.stdout, "60")  # it reads: before, a signal would be an error of its own
    reading.send_signal(signal.SIGINT)
    status, _, said = tshark_end(reading)
    assert status == 0
    assert "rror" not in said
    lab.wait_descriptors(0)
    wait(lambda: not Path(f"/proc/{reader.pid}").exists(), "the end of zbuf extcap")


# ---- installed ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_is_put_where_tshark_looks_and_removed_again(wireshark: Wireshark) -> None:
    for _ in range(2):  # again is no harm
        done = wireshark.zbuf("--install")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{wireshark.script} is there: tshark -D")
    assert stat.S_IMODE(wireshark.script.stat().st_mode) == 0o755
    assert wireshark.script.read_text() == f'#!/bin/sh\n{MARKER}\nexec {ZBUF} extcap "$@"\n'
    assert os.listdir(wireshark.script.parent) == ["zbuf"]
    assert wireshark.run(wireshark.script, "--extcap-interfaces").stdout == VERSION + "\n"
    done = wireshark.zbuf("--uninstall")
    assert (done.returncode, done.stdout) == (0, f"{wireshark.script} is removed\n")
    assert not wireshark.script.exists()
    assert "is not there: nothing to remove" in error_of(wireshark.zbuf("--uninstall"))


@pytest.mark.parametrize("what", ["file", "other script", "link", "folder"])
@pytest.mark.parametrize("option", ["--install", "--uninstall"])
def test_what_is_not_ours_stays_as_it_is(option: str, what: str, tmp_path: Path) -> None:
    path, other = tmp_path / "extcap/zbuf", tmp_path / "other"
    path.parent.mkdir()
    other.write_text(f"#!/bin/sh\n{MARKER}\n")
    match what:
        case "file":
            path.write_text("theirs")
        case "other script":
            path.write_text(f"#!/bin/sh\necho '\n{MARKER}'\n")
        case "link":
            path.symlink_to(other)
        case "folder":
            path.mkdir()
    before = identity(path)
    assert f"{path} is not zbuf's own" in error_of(extcap(option, "--dir", str(path.parent)))
    assert (identity(path), os.listdir(path.parent)) == (before, ["zbuf"])
    assert other.exists()


def identity(path: Path) -> tuple[int, int, int]:
    """What changes when a file is made anew, or written."""
    found = path.lstat()
    return found.st_ino, found.st_mode, found.st_mtime_ns


def test_a_run_directory_is_kept_only_where_it_is_said(
    lab: Lab, tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "zbuf"
    answer("--install", "--dir", str(tmp_path))
    assert str(run_dir) not in script.read_text()
    answer("--install", "--dir", str(tmp_path), "--run-dir", run_dir.name, cwd=run_dir.parent)
    monkeypatch.setenv("ZBUF_RUN_DIR", str(tmp_path))
    done = subprocess.run([script, "--extcap-interfaces"], capture_output=True, text=True, check=True)
    assert f"zbuf-{lab.name}" in done.stdout


def test_the_script_calls_a_command_with_odd_characters_in_its_path(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s $HOME "here"'
    folder.mkdir()
    (folder / "zbuf").symlink_to(ZBUF)
    subprocess.run(["./zbuf", "extcap", "--install", "--dir", tmp_path], cwd=folder, check=True, capture_output=True)
    assert "here" in (tmp_path / "zbuf").read_text()
    done = subprocess.run([tmp_path / "zbuf", "--extcap-interfaces"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, VERSION + "\n")


def test_started_as_a_module_it_installs_the_command_beside_its_python(tmp_path: Path) -> None:
    code = "from zbuf.consumer.cli import main; main()"
    line = [sys.executable, "-c", code, "extcap", "--install", "--dir", str(tmp_path)]
    subprocess.run(line, check=True, capture_output=True)
    assert f'exec {ZBUF} extcap "$@"' in (tmp_path / "zbuf").read_text()


@pytest.mark.parametrize(
    ("told", "folder"),
    [
        ("Personal configuration:\t{home}/p\nPersonal Extcap path:\t{home}/a: b\nExtcap path:\t/usr/lib\n", "a: b"),
        ("Personal configuration:\t{home}/p\nExtcap path:\t/usr/lib\n", "p/extcap"),
        (None, "home/.local/lib/wireshark/extcap"),
    ],
)
def test_it_goes_where_that_tshark_says(told: str | None, folder: str, wireshark: Wireshark, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if told is not None:
        (programs / "tshark").write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{told.format(home=wireshark.home)}END\n")
        (programs / "tshark").chmod(0o755)
    done = wireshark.zbuf("--install", env=wireshark.environment | {"PATH": str(programs)})
    assert (done.returncode, done.stderr) == (0, "")
    assert (wireshark.home / folder / "zbuf").exists()


def test_a_slip_of_the_pen_installs_nothing(tmp_path: Path) -> None:
    done = extcap("--install", "--dri", str(tmp_path), env={**os.environ, "HOME": str(tmp_path)})
    assert "'--dri' can't be used with" in error_of(done, 2)
    assert list(tmp_path.iterdir()) == []
