"""zbuf dump's lines: those of tcpdump, or zbuf's own, each packet and each loss in its place."""

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap, sample
from support.commands import Commands, Process, end, run, told, wait_line
from support.live_lab import LiveLab, datagram, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S, Lab, Remote
from support.replays import wait_for_readers

from zbuf.consumer import Packet, Reader, connect
from zbuf.consumer.tools.dump import lines as lines_module
from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.lines import Lines
from zbuf.consumer.tools.dump.packet_lines import PacketLines
from zbuf.consumer.tools.dump.style import Style
from zbuf.producer import Producer
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.memory.pcapng import Interface

pytestmark = [
    pytest.mark.usefixtures("run_dir"),
    pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump"),
]

ESCAPES = b"\x1b[2J\x07\n12:00:00.000000 IP forged\r"
START_NS = 1_700_000_000_000_000_000


def ip4(protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    head = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(payload), 0, fragment, 64, protocol, 0, 0x0A000001, 0x0A000002)
    return bytes.fromhex("0200000000020200000000010800") + head + payload


def ip6(protocol: int, payload: bytes) -> bytes:
    addresses = bytes.fromhex("fe800000000000000000000000000001ff020000000000000000000000000001")
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + addresses
    return bytes.fromhex("02000000000202000000000186dd") + head + payload


def tcp(flags: int, payload: bytes = b"", *, seq: int = 100, ack: int = 0) -> bytes:
    return struct.pack(">HHIIBBHHH", 1234, 9999, seq, ack, 0x50, flags, 8192, 0, 0) + payload


def udp(payload: bytes, port: int = 9999) -> bytes:
    return struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload


ARP = bytes.fromhex("ffffffffffff02000000000108060001080006040001020000000001 0a000001 000000000000 0a000002")
COMMON = [
    ip4(6, tcp(0x02)),
    ip4(6, tcp(0x18, b"hello", seq=101, ack=5)),
    ip4(6, tcp(0x10, seq=106, ack=7)),
    ip4(6, tcp(0xFF, b"all")),
    ip4(6, tcp(0)),
    ip4(17, udp(b"abc")),
    ip4(1, bytes([8, 0, 0, 0, 0, 7, 0, 3]) + b"12345678"),
    ip4(1, bytes([0, 0, 0, 0, 0, 7, 0, 3])),
    ip4(17, b"fragment", fragment=100),
    ip4(200, b"xx"),
    ARP,
    ARP[:20] + b"\0\2" + ARP[22:],
    ARP[:12] + b"\x81\0\0\x05" + ip4(17, udp(b"abc"))[12:],
    ip6(17, udp(b"abc")),
    ip6(6, tcp(0x02)),
    ip6(58, bytes([128, 0, 0, 0, 0, 7, 0, 3])),
    b"\2\0\0",
]
"""Packets of which both tcpdump -n and zbuf itself have something to say, and say the same."""


def records(packets: Sequence[bytes]) -> list[Record]:
    return [Record(data, START_NS + number * 1_234_567_891, len(data)) for number, data in enumerate(packets)]


def capture(path: Path, packets: Sequence[bytes]) -> Path:
    path.write_bytes(pcap(records(packets), nanoseconds=True))
    return path


def tcpdump(path: Path, *options: str) -> str:
    """What tcpdump prints of a file."""
    with path.open("rb") as file:
        done = subprocess.run(["tcpdump", *options, "-r", "-"], stdin=file, capture_output=True, check=True, text=True)
    return done.stdout


@pytest.fixture
def without_tcpdump(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "find_tcpdump", lambda: None)


# ---- tcpdump's lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [["-n", "-e", "-vv"], ["-nXX", "-tttt", "-#", "--nano"], ["-nqA", "-t", "-S"]], ids=" ".join
)
def test_lines_are_those_of_tcpdump_with_the_same_options(tmp_path: Path, options: list[str]) -> None:
    path = capture(tmp_path / "capture", [*COMMON, *(one.data for one in sample(100))])
    done = run("zbuf", "dump", *options, "-r", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == tcpdump(path, *options)
    assert done.stdout.count("\n") >= len(COMMON)
    count = len(COMMON) + len(sample(100))
    assert told(done.stderr) == [
        f"{count} packets captured",
        f"{count} packets received by filter",
        "0 packets dropped by zbuf",
    ]


def test_nothing_in_a_packet_reaches_the_terminal_unescaped(tmp_path: Path) -> None:
    names = [
        udp(b"\0\1" + ESCAPES + b"\0octet\0", 69),
        udp(b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(ESCAPES)]) + ESCAPES + b"\0\0\1\0\1", 53),
        udp(b"<14>" + ESCAPES, 514),
        udp(bytes([1, 1, 0, 22 + len(ESCAPES)]) + bytes(16) + bytes([1, 2 + len(ESCAPES)]) + ESCAPES, 1812),
    ]
    path = capture(tmp_path / "capture", [ip4(17, one) for one in names])
    done = run("zbuf", "dump", "-n", "-r", path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(names)
    assert done.stdout.replace("\n", "").isprintable()
    shown = run("zbuf", "dump", "-n", "-vvv", "-A", "-r", path).stdout
    assert not set("\x1b\x07") & set(shown)


def append(lab: Lab, count: int, port: int = 9999) -> None:
    """Append datagrams."""
    lab.process.do("for _ in range(count): producer.append(data)", count=count, data=ip4(17, udp(b"abc", port)))


def test_line_comes_as_soon_as_its_packet_does(
    commands: Commands, remote: Callable[[], Remote], producer_name: str
) -> None:
    lab = Lab(remote(), producer_name)
    dump = commands.start("zbuf", "dump", lab.name, "-n")
    wait_for_readers(lab.name, 1)
    for number in range(3):
        append(lab, 1, 9000 + number)
        assert f".900{number}: UDP, length 3" in wait_line(dump.stdout, "IP ")
    lab.process.do("producer.close()")
    assert end(dump).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_to_all_processes_of_a_terminal_loses_no_line(
    commands: Commands, remote: Callable[[], Remote], producer_name: str, number: signal.Signals
) -> None:
    lab = Lab(remote(), producer_name)
    dump = commands.start("zbuf", "dump", lab.name, "-n", process_group=0)
    wait_line(dump.stderr, "reading")
    wait_tcpdump(dump)
    append(lab, 500)
    os.killpg(dump.pid, number)
    done = end(dump)
    assert done.returncode == 0, done.stderr
    assert told(done.stderr)[0] == "500 packets captured"
    assert done.stdout.count("UDP, length 3") == 500


def wait_tcpdump(dump: Process) -> int:
    """Wait until the dump has started tcpdump; returns its process."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        for child in Path(f"/proc/{dump.pid}/task/{dump.pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "tcpdump\n":
                return int(child)
        os.sched_yield()
    raise AssertionError("no tcpdump is started")


def test_reader_of_the_lines_that_has_enough_ends_the_dump_quietly(
    commands: Commands, remote: Callable[[], Remote], producer_name: str
) -> None:
    lab = Lab(remote(), producer_name)
    dump = commands.start("zbuf", "dump", lab.name, "-n")
    wait_for_readers(lab.name, 1)
    append(lab, 1)
    wait_line(dump.stdout, "IP ")
    assert dump.stdout is not None
    dump.stdout.close()
    lab.process.do("def flood():\n    while not producer.stopped: producer.append(numbered(1))")
    lab.process.do("threading.Thread(target=flood, daemon=True).start()")
    assert dump.wait(LIMIT_S) == 1
    assert dump.stderr is not None
    assert told(dump.stderr.read()) == []


def test_tcpdump_that_dies_is_one_line(commands: Commands, remote: Callable[[], Remote], producer_name: str) -> None:
    lab = Lab(remote(), producer_name)
    dump = commands.start("zbuf", "dump", lab.name, "-n")
    os.kill(wait_tcpdump(dump), signal.SIGKILL)
    while dump.poll() is None:
        lab.append()
    done = end(dump)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "zbuf: tcpdump was ended by SIGKILL: use -w to write packets to a file"
    assert "Traceback" not in done.stderr


def test_option_that_tcpdump_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    done = run("zbuf", "dump", "-T", "nosuch", "-r", capture(tmp_path / "capture", COMMON))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "zbuf: tcpdump: unknown packet type `nosuch'"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which tcpdump is not to have")
def test_tcpdump_does_not_run_as_root(commands: Commands, remote: Callable[[], Remote], producer_name: str) -> None:
    lab = Lab(remote(), producer_name)
    dump = commands.start("zbuf", "dump", lab.name)
    status = Path(f"/proc/{wait_tcpdump(dump)}/status").read_text().splitlines()
    (ids,) = (line.split()[1:] for line in status if line.startswith("Uid:"))
    assert "0" not in ids
    lab.process.do("producer.close()")
    assert end(dump).returncode == 0


# ---- zbuf's own lines -----------------------------------------------------------------------------------------------


@pytest.fixture
def printed(producer_name: str) -> Callable[..., str]:
    """printed(packets, times=, numbers=, nanoseconds=): zbuf's own lines."""

    def lines(packets: Sequence[Record], *style: Any, linktype: int = 1) -> str:
        with Producer(producer_name, linktype=linktype, linger_s=0) as producer, connect(producer_name) as reader:
            for one in packets:
                producer.append(one.data, time_ns=one.time_ns, wirelen=one.wirelen)
            reader.rotate()
            buffer = reader.next_buffer(LIMIT_S)
            assert buffer is not None
            making = PacketLines(*style)
            making.describe([linktype], [])
            return making.lines(buffer, len(buffer)).decode("ascii")

    return lines


@pytest.mark.parametrize("level", range(6))
def test_own_lines_are_those_of_tcpdump_for_common_packets(
    printed: Callable[..., str], tmp_path: Path, level: int
) -> None:
    path = capture(tmp_path / "capture", COMMON)
    assert printed(records(COMMON), level, True, True) == tcpdump(
        path, "-n", "-S", "-#", "--nano", *(["-" + "t" * level] if level else [])
    )


def test_own_line_is_one_line_of_plain_text_whatever_the_packet_is(printed: Callable[..., str]) -> None:
    behind = ip6(0, bytes([17, 0, 1, 4, 0, 0, 0, 0]) + udp(b"abc"))
    whole = [*COMMON, behind, ip6(0, bytes([0, 0]) * 400), ip4(6, tcp(0xFF, ESCAPES * 20)), ESCAPES * 9]
    cut = [Record(data[:size], START_NS, len(data)) for data in whole for size in range(0, len(data) + 1, 3)]
    for linktype in (0, 1, 12, 101, 108, 113, 276, 290):
        text = printed([*cut, *(one for one in sample(100) if len(one.data) < 2000)], linktype=linktype)
        assert text.count("\n") > len(cut)
        assert text.replace("\n", "").isprintable()
        assert max(map(len, text.splitlines())) < 300


def test_own_lines_are_printed_without_tcpdump_and_say_so(
    producer_name: str, capfd: pytest.CaptureFixture[str], without_tcpdump: None
) -> None:
    del without_tcpdump
    with Producer(producer_name, linger_s=0) as producer, connect(producer_name) as reader:
        producer.append(COMMON[0], time_ns=START_NS)
        reader.rotate()
        show(Lines(reader, Style(times=1, verbose=2, numeric=1)), reader)
    out, said = capfd.readouterr()
    assert out == "IP 10.0.0.1.1234 > 10.0.0.2.9999: Flags [S], seq 100, win 8192, length 0\n"
    assert said == "zbuf: tcpdump is not installed: these are zbuf's own lines, without -vv\n"


def show(lines: Lines, reader: Reader) -> None:
    """Print what is stored."""
    buffer = reader.next_buffer(LIMIT_S)
    assert buffer is not None
    blocks = Blocks(buffer)
    lines.take(blocks, blocks.packets)
    lines.finish(Ledger())
    lines.close()


def test_several_link_types_are_own_lines_with_the_names_of_interfaces_escaped(
    commands: Commands, producer_name: str
) -> None:
    interfaces = [Interface("eth\x1b[2J\n", 1), Interface("tun", 101), Interface("odd", 290)]
    with Producer(producer_name, interfaces=interfaces) as producer:
        dump = commands.start("zbuf", "dump", producer_name, "-t", "-e", "ip")
        assert producer.wait_readers(1, LIMIT_S)
        producer.append(COMMON[5], direction="in")
        producer.append(COMMON[5][14:], interface=1, direction="out")
        producer.close()
        done = end(dump)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "eth\\x1b[2J\\n In  IP 10.0.0.1.40000 > 10.0.0.2.9999: UDP, length 3",
        "tun   Out IP 10.0.0.1.40000 > 10.0.0.2.9999: UDP, length 3",
    ]
    said = told(done.stderr)
    assert said[0].startswith("zbuf: no packets of odd (link type 290): filter 'ip'")
    assert (
        said[1]
        == "zbuf: tcpdump prints one link type at a time, not 1, 101, 290: these are zbuf's own lines, without -e"
    )
    assert len(said) == 5
    assert done.stderr.replace("\n", "").isprintable()


def test_link_type_that_tcpdump_can_not_print_is_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(records([b"\x1b[2J"]), linktype=290))
    done = run("zbuf", "dump", "-t", "-r", path)
    assert done.stdout == "link type 290, length 4: 1b5b324a\n"
    assert "zbuf: tcpdump does not print link type 290: these are zbuf's own lines" in told(done.stderr)


# ---- losses ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tcpdump", "zbuf"])
def either(request: pytest.FixtureRequest) -> None:
    """Lines by tcpdump, and zbuf's own."""
    if request.param == "zbuf":
        request.getfixturevalue("without_tcpdump")


def test_lost_packets_are_a_line_where_they_were_lost(
    producer_name: str, capfd: pytest.CaptureFixture[str], either: None
) -> None:
    del either
    expected = []
    with Producer(producer_name, linger_s=0) as producer, connect(producer_name, buffer_size=4096) as reader:
        lines = Lines(reader, Style(numeric=1, times=1))
        for round_ in range(10):
            for number in range(200):
                producer.append(ip4(17, udp(b"abc", 10_000 + 1000 * round_ + number)))
            kept = 0
            for _ in range(2):
                buffer = reader.next_buffer(0)
                assert buffer is not None
                expected += [number_and_loss(packet) for packet in buffer]
                kept += lines.take(Blocks(buffer), len(buffer))
            assert kept < 200
            reader.next_buffer(0)  # gives the last one back
        lines.finish(Ledger())
        lines.close()
    found, lost = [], 0
    for line in capfd.readouterr().out.splitlines():
        if line.startswith("zbuf: "):
            lost = int(line.removeprefix("zbuf: ").split(" packet")[0])
            assert line.endswith((" packets were lost here", " packet was lost here"))
        else:
            found.append((int(line.split(": UDP")[0].rsplit(".", 1)[1]), lost))
            lost = 0
    assert found == expected
    assert sum(lost > 0 for _, lost in found) >= 9


def number_and_loss(packet: Packet) -> tuple[int, int]:
    (port,) = struct.unpack_from(">H", bytes(packet), 36)
    return port, packet.dropped


# ---- live -----------------------------------------------------------------------------------------------------------


@needs_namespace
def test_dump_of_an_interface_prints_what_tcpdump_prints(
    commands: Commands, wire: Network, producer_name: str, run_dir: Path
) -> None:
    del run_dir
    lab = LiveLab(wire, commands, producer_name, "-i", "zb")
    dump = commands.start("zbuf", "dump", lab.name, "-n", "-e", "-v", "-c", "60")
    beside = commands.adopt(
        subprocess.Popen(
            wire.inside("tcpdump", "-i", "zb", "-n", "-e", "-v", "-l", "-c", "60", "-Z", "root"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    wait_line(beside.stderr, "listening on")
    wait_for_readers(lab.name, 1)
    send(wire, [datagram(number, [5, 6][: number % 3], port=9000 + number) for number in range(60)])
    ours, theirs = end(dump), end(beside)
    assert [untimed(line) for line in ours.stdout.splitlines()] == [untimed(one) for one in theirs.stdout.splitlines()]
    assert ours.stdout.count("UDP, length 4") == 60
    assert told(ours.stderr) == [
        "60 packets captured",
        "60 packets received by filter",
        "0 packets dropped by zbuf",
        "0 packets dropped by kernel",
    ]
    lab.end()


def untimed(line: str) -> str:
    """A line without its time: the kernel stamps a packet for each of its readers."""
    return line if line.startswith((" ", "\t")) else line.split(" ", 1)[1]
