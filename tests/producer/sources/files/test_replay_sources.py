"""How capture files are replayed: by pipes that nobody writes to, merged, streamed, in loops, with other addresses."""

import contextlib
import fcntl
import gzip
import heapq
import json
import os
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from scapy.layers.l2 import Ether
from support.captures import DBUS, ETHERNET, RAW_IP, Record, again, pcap, pcapng, received, sample
from support.commands import Commands, run, wait_line
from support.processes import LIMIT_S, numbered, take_all

from zbuf.consumer import connect
from zbuf.producer import FileSource, Producer
from zbuf.producer.ring.pump import Pump
from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.readahead import ReadAhead
from zbuf.producer.sources.files.stopping import Stop, interruptibly
from zbuf.producer.sources.files.unique import UniqueAddresses
from zbuf.producer.sources.python import ScapySource
from zbuf.shared.errors import CaptureFileError, ValueRefused

PRELOADED, STREAMED = 1 << 30, 0

SOON_S = 5
"""A limit for broken code only: what ends soon ends within milliseconds."""


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """save(image, name): a file with these bytes; returns its path."""

    def save_as(image: bytes, name: str = "lab.pcap") -> str:
        path = tmp_path / name
        path.write_bytes(image)
        return str(path)

    return save_as


# ---- pipes that nobody writes to ------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_pipe(image: bytes) -> Iterator[int]:
    """The reading end of a pipe with these bytes in it, whose writer says no more and does not go away either."""
    reading, writing = os.pipe()
    try:
        assert os.write(writing, image) == len(image), "more than a pipe holds"
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def wait_empty(reading: int) -> None:
    """Wait until all that is in a pipe was read."""
    limit = time.monotonic() + LIMIT_S
    while struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))[0]:
        assert time.monotonic() < limit, "nobody reads the pipe"


def wait_threads(process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until a process has so many threads."""
    limit = time.monotonic() + LIMIT_S
    while len(os.listdir(f"/proc/{process.pid}/task")) < count:
        assert time.monotonic() < limit, f"fewer than {count} threads"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("length", [0, 1, 2, 10, 23], ids=lambda length: f"{length}-bytes")
def test_replay_of_a_pipe_that_does_not_say_what_it_is_ends_at_once(
    commands: Commands, number: signal.Signals, length: int
) -> None:
    with silent_pipe(pcap(sample(1000, [60, 60]))[:length]) as reading:
        process = commands.start("zbufd", "replay", "-", stdin=reading)
        wait_threads(process, 2)
        wait_empty(reading)
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON_S)
        assert process.returncode in (130, -number)
        assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("length", [24, 30, 120], ids=lambda length: f"{length}-bytes")
def test_replay_of_a_pipe_that_falls_silent_ends_in_good_order(
    commands: Commands, producer_name: str, number: signal.Signals, length: int
) -> None:
    with silent_pipe(pcap(sample(1000, [60, 60]))[:length]) as reading:
        process = commands.start("zbufd", "replay", "-", "--name", producer_name, stdin=reading)
        wait_line(process.stderr, "ready in")
        wait_empty(reading)
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON_S)
        assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_replay_of_a_fifo_that_nobody_opens_ends_at_once(
    commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = commands.start("zbufd", "replay", tmp_path / "fifo")
    wait_threads(process, 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=SOON_S)
    assert process.returncode in (130, -number)
    assert "Traceback" not in said


def test_packets_of_a_pipe_come_while_it_goes_on(commands: Commands, run_dir: Path, producer_name: str) -> None:
    records = sample(1000, [60, 1514, 61])
    image = pcap(records)
    cuts = [24, 24 + 16 + 60, 24 + 16 + 60 + 16 + 1514, len(image)]
    options = ("--name", producer_name, "--run-dir", str(run_dir), "--wait-readers", "1", "--lossless")
    reading, writing = os.pipe()
    with os.fdopen(reading) as pipe:
        os.write(writing, image[: cuts[0]])
        process = commands.start("zbufd", "replay", "-", *options, stdin=pipe)
    wait_line(process.stderr, "ready in")
    with connect(producer_name, run_dir=run_dir, immediate=True) as reader:
        for number, record in enumerate(records):
            os.write(writing, image[cuts[number] : cuts[number + 1]])
            buffer = reader.next_buffer(timeout=LIMIT_S)
            assert buffer is not None
            assert [bytes(one) for one in buffer] == [record.data]
        os.close(writing)
        assert list(reader) == []
    assert process.wait(LIMIT_S) == 0


def test_interrupted_work_is_waited_for_and_its_stop_is_set() -> None:
    ended: list[bool] = []

    def work(stop: Stop) -> None:
        assert not stop.is_set
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not stop.is_set:
            assert not ended
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        interruptibly(work)
    assert ended == [True]


def test_errors_and_results_of_interruptible_work_come_through() -> None:
    assert interruptibly(lambda stop: not stop.is_set)
    with pytest.raises(ZeroDivisionError):
        interruptibly(lambda _: 1 // 0)


def test_stream_of_a_pipe_that_nobody_writes_to_any_more_can_be_stopped(
    save: Callable[..., str], producer_name: str, run_dir: Path
) -> None:
    path = Path(save(pcap(sample(1000, [60]))))
    source = FileSource([str(path)], STREAMED)
    path.unlink()
    os.mkfifo(path)  # from now on its header never comes
    with Producer(producer_name, run_dir=run_dir) as producer:
        threads = threading.active_count()
        publishing = threading.Thread(target=producer.publish, args=(source,))
        publishing.start()
        producer.stop()
        publishing.join(SOON_S)
        assert not publishing.is_alive()
        assert threading.active_count() == threads


def test_pipe_that_is_larger_than_the_limit_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with contextlib.closing(Writer(path, pcap(sample(1000, [60, 60])))), pytest.raises(CaptureFileError) as error:
        FileSource([str(path)], 100, once=False)
    assert str(error.value) == f"{path}: it is a pipe, and has more than 100 bytes: raise --preload-limit"


class Writer:
    """A thread that writes to a FIFO."""

    def __init__(self, path: Path, image: bytes) -> None:
        self._thread = threading.Thread(target=lambda: path.write_bytes(image))
        self._thread.start()

    def close(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("option", ["--merge", "--unique-ip"])
def test_options_that_scapy_does_not_have_are_refused(save: Callable[..., str], option: str) -> None:
    done = run("zbufd", "replay", save(pcap(sample(1000))), "--engine", "scapy", "--loop", "2", option)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("loop", [(), ("--loop", "1")], ids=["none", "one"])
def test_unique_addresses_without_a_loop_are_refused(save: Callable[..., str], loop: tuple[str, ...]) -> None:
    done = run("zbufd", "replay", save(pcap(sample(1000))), "--unique-ip", *loop)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--unique-ip changes addresses from the second loop on: give --loop or --duration" in done.stderr


def test_damage_that_is_known_is_told_before_the_replay(
    commands: Commands, save: Callable[..., str], producer_name: str
) -> None:
    path = save(pcap(sample(1000))[:-1])
    process = commands.start("zbufd", "replay", path, "--loop", "0", "--name", producer_name)
    wait_line(process.stderr, f"{path}: damaged after")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (1, "")


@pytest.mark.parametrize("merge", [(), ("--merge",)], ids=["in-turn", "merged"])
def test_files_of_different_link_types_are_replayed_together(save: Callable[..., str], merge: tuple[str, ...]) -> None:
    records = sample(1000, [60])
    first, second = save(pcap(records), "first"), save(pcap(records, linktype=DBUS), "second")
    done = run("zbufd", "replay", first, second, "--json", *merge)
    assert done.returncode == 0
    assert done.stderr.endswith(f"link-type {ETHERNET}, {DBUS}\n")
    assert json.loads(done.stdout)["packets"] == 2 * len(records)


@pytest.mark.parametrize("merge", [(), ("--merge",)], ids=["in-turn", "merged"])
def test_empty_file_beside_others_is_refused_by_name(save: Callable[..., str], merge: tuple[str, ...]) -> None:
    done = run("zbufd", "replay", save(pcap(sample(1000)), "first"), save(b"", "second"), *merge)
    assert done.returncode == 1
    assert done.stderr.endswith("second: the file is empty\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [(), ("--merge",), ("--unique-ip",), ("--preload-limit", "0")])
def test_replay_for_ever_ends_on_a_signal(
    commands: Commands, save: Callable[..., str], producer_name: str, options: tuple[str, ...], number: signal.Signals
) -> None:
    paths = [save(pcap(sample(1000)), "first"), save(gzip.compress(pcap(sample(1000))), "second")]
    process = commands.start("zbufd", "replay", *paths, "--loop", "0", "--name", producer_name, *options)
    wait_line(process.stderr, "ready in")
    process.send_signal(number)
    _, said = process.communicate(timeout=SOON_S)
    assert (process.returncode, said) == (0, "")


# ---- merged ---------------------------------------------------------------------------------------------------------


Publish = Callable[..., list[Record]]


@pytest.fixture
def publish(producer_name: str, run_dir: Path) -> Publish:
    """publish(source, loops=1): what a reader receives of it."""

    def publish_and_read(source: FileSource | ScapySource, *, loops: int = 1) -> list[Record]:
        names = [one.name for one in source.interfaces]
        with (
            Producer(producer_name, linktype=source.linktype, interfaces=names, run_dir=run_dir) as producer,
            connect(producer_name, run_dir=run_dir) as reader,
        ):
            published = producer.publish(source, loops=loops)
            packets = received(reader)
            assert len(packets) == published
            return packets

    return publish_and_read


def at(times: list[int], interface: int = 0) -> list[Record]:
    """Packets at these times, each of which tells where it comes from."""
    return [Record(numbered(1000 * interface + number), time, 60, interface) for number, time in enumerate(times)]


def merged(files: list[list[Record]]) -> list[Record]:
    """heapq.merge() is stable, and leaves the order of each of its inputs."""
    return list(heapq.merge(*files, key=lambda record: record.time_ns))


def saved(save: Callable[..., str], files: list[list[Record]]) -> list[str]:
    return [
        save(pcapng([replace(one, interface=0) for one in records], resolutions=[9]), f"{number}.pcapng")
        for number, records in enumerate(files)
    ]


BOTH = pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])


@BOTH
@pytest.mark.parametrize(
    "times",
    [
        [[1, 4, 5], [2, 3, 6]],
        [[5, 5, 5], [5, 5], [5]],
        [[9, 1, 8], [2, 2, 3]],
        [[], [1, 2], []],
        [[], []],
        [[0, 2**64 - 1, 0], [2**64 - 1], [1]],
        [[3]],
        [list(range(0, 3000, 3)), list(range(1, 3000, 3)), list(range(900)), [7] * 600],
    ],
    ids=["interleaved", "ties", "backward", "one-empty", "all-empty", "extremes", "one", "many"],
)
def test_merged_files_come_in_the_order_of_time_each_in_its_own(
    publish: Publish, save: Callable[..., str], times: list[list[int]], limit: int
) -> None:
    files = [at(one, number) for number, one in enumerate(times)]
    assert publish(FileSource(saved(save, files), limit, merge=True)) == merged(files)


@BOTH
def test_files_come_one_after_the_other_unless_they_are_merged(
    publish: Publish, save: Callable[..., str], limit: int
) -> None:
    files = [at([5, 6]), [], at([1, 2], 2)]
    assert publish(FileSource(saved(save, files), limit)) == files[0] + files[2]


def test_standard_input_can_be_merged_with_a_file(commands: Commands, save: Callable[..., str], run_dir: Path) -> None:
    del run_dir
    files = [at([1, 4]), at([2, 3], 1)]
    paths = saved(save, files)
    with open(paths[1], "rb") as second:
        options = ("--merge", "--name", "merged", "--wait-readers", "1", "--lossless")
        replay = commands.start("zbufd", "replay", paths[0], "-", *options, stdin=second)
    wait_line(replay.stderr, "ready in")
    with connect("merged") as reader:
        assert [packet.time_ns for packet in reader] == [1, 2, 3, 4]
    assert replay.wait(LIMIT_S) == 0


# ---- loops ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("merge", [False, True], ids=["in-turn", "merged"])
def test_times_go_on_from_loop_to_loop(publish: Publish, save: Callable[..., str], limit: int, merge: bool) -> None:
    files = [at([1000, 3000, 2000]), at([500, 5500], 1)]
    source = FileSource(saved(save, files), limit, merge=merge)
    expected = again(merged(files) if merge else files[0] + files[1], 4)
    assert publish(source, loops=4) == expected


@BOTH
@pytest.mark.parametrize("times", [[0, 2**60, 0, 2**60 + 7], [2**60, 0], [0, 0, 0]], ids=["some", "one", "all"])
def test_packets_without_a_time_have_none_in_any_loop(
    publish: Publish, save: Callable[..., str], times: list[int], limit: int
) -> None:
    """As if 1970 were meant, the second loop would be half a century later."""
    source = FileSource(saved(save, [at(times)]), limit)
    expected = again(at(times), 3)
    assert [one.time_ns == 0 for one in expected] == [time == 0 for time in times] * 3
    assert publish(source, loops=3) == expected
    assert publish(source, loops=3) == expected
    assert publish(ScapySource(source.paths), loops=3) == expected


@BOTH
def test_times_begin_anew_when_a_source_is_published_again(
    publish: Publish, save: Callable[..., str], limit: int
) -> None:
    source = FileSource(saved(save, [at([10, 20, 30] * 200)]), limit)
    first = publish(source, loops=3)
    assert publish(source, loops=3) == first


@BOTH
@pytest.mark.parametrize(
    "times",
    [[0, 2**64 - 1], [2**64 - 1], [2**64 - 1, 0, 5], [2**64 - 3]],
    ids=["all-of-time", "the-last", "backward", "nearly-the-last"],
)
def test_times_that_would_be_past_the_end_of_time_stay(
    publish: Publish, save: Callable[..., str], times: list[int], limit: int
) -> None:
    found = publish(FileSource(saved(save, [at(times)]), limit), loops=4)
    steps = [0, 1, 2, 2] if times == [2**64 - 3] else [0] * 4
    assert [one.time_ns for one in found] == [time + step for step in steps for time in times]


@BOTH
@pytest.mark.parametrize("merge", [False, True], ids=["in-turn", "merged"])
def test_captures_without_packets_end_a_loop_for_ever(
    publish: Publish, save: Callable[..., str], limit: int, merge: bool
) -> None:
    paths = saved(save, [[], []])
    assert publish(FileSource(paths, limit, merge=merge), loops=0) == []


# ---- read ahead -----------------------------------------------------------------------------------------------------


def test_stream_of_many_blocks_comes_whole_and_in_order(
    save: Callable[..., str], producer_name: str, run_dir: Path
) -> None:
    records = [Record(numbered(number, 60 + number % 3000), number, 60 + number % 3000) for number in range(9000)]
    source = FileSource([save(pcapng(records, resolutions=[9]))], STREAMED)
    producer = Producer(producer_name, lossless=True, run_dir=run_dir)
    with connect(producer_name, run_dir=run_dir) as reader:

        def publish_twice() -> None:
            producer.publish(source, loops=2)
            producer.close()

        publishing = threading.Thread(target=publish_twice)
        publishing.start()
        assert take_all(reader) == 2 * list(range(9000))
        publishing.join(LIMIT_S)


@pytest.mark.parametrize("form", ["pcap", "gzip"])
def test_damage_of_streamed_files_is_told_though_they_are_merged(
    publish: Publish, save: Callable[..., str], form: str
) -> None:
    whole = sample(1000, [60, 60])
    cut = pcap(whole)[:-1]
    paths = [save(gzip.compress(cut) if form == "gzip" else cut, "cut"), save(pcap(whole), "whole")]
    source = FileSource(paths, STREAMED, merge=True)
    assert len(publish(source, loops=2)) == 6
    (warning,) = source.warnings
    assert warning.startswith(f"{paths[0]}: damaged after 1 whole packets")


def test_error_of_the_thread_that_reads_ahead_is_raised_behind_what_it_has_read() -> None:
    with Stop() as stop:
        ahead = ReadAhead(stop.fileno())
        ahead.error = CaptureFileError("lab.pcap: no more")
        ahead.finish()
        with pytest.raises(CaptureFileError, match=r"^lab\.pcap: no more$"):
            Pump().run(ahead)


@pytest.mark.parametrize(("packets", "fits"), [(100, True), (200, False)])
def test_thread_reads_ahead_of_the_pump_until_the_ring_is_full(
    save: Callable[..., str], packets: int, fits: bool
) -> None:
    path = save(pcap([Record(bytes(60_000), number, 60_000) for number in range(packets)]))
    pump = Pump()
    with Stop() as stop:
        ahead = ReadAhead(stop.fileno())
        stop.set()  # so that nothing waits for room
        assert ahead.fill(CaptureFile(os.open(path, os.O_RDONLY), path)) is fits
        ahead.finish()
        pump.interrupt()
        assert not pump.run(ahead)
        if fits:
            assert pump.run(ahead)
            assert pump.offered == packets


def test_pump_that_waits_for_a_read_is_woken() -> None:
    with Stop() as stop:
        ahead = ReadAhead(stop.fileno())
        pump = Pump()
        ended: list[bool] = []
        pumping = threading.Thread(target=lambda: ended.append(pump.run(ahead)))
        pumping.start()
        while pumping.is_alive():
            pump.interrupt()
        assert ended == [False]
        ahead.finish()
        while not pump.run(ahead):
            pass


# ---- addresses ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab_packets() -> dict[str, Any]:
    """Packets with right checksums, made by scapy, of several protocols."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror, fragment
    from scapy.layers.inet6 import (
        HAO,
        ICMPv6EchoRequest,
        IPv6,
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        MIP6MH_HoTI,
        fragment6,
    )
    from scapy.layers.l2 import ARP, Dot1AD, Dot1Q
    from scapy.layers.vrrp import VRRPv3
    from scapy.packet import Padding, Raw

    cut: Callable[..., list[Any]] = fragment
    cut6: Callable[..., list[Any]] = fragment6
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    v4, v6 = IP(src="10.1.2.3", dst="192.0.2.77"), IPv6(src="2001:db8::17", dst="fe80::1:2")
    text = Raw(b"what a packet says, an odd number of bytes")
    first, later = cut(v4 / UDP(sport=5, dport=6) / Raw(bytes(range(256)) * 8), 1000)[:2]
    return {
        "tcp": ether / v4 / TCP(sport=1, dport=2) / text,
        "udp": ether / v4 / UDP(sport=1, dport=2) / text,
        "udp-without": ether / v4 / UDP(sport=1, dport=2, chksum=0) / text,
        "icmp": ether / v4 / ICMP() / text,
        "icmp-error": ether / v4 / ICMP(type=3) / IPerror(src="192.0.2.77", dst="10.1.2.3") / UDPerror() / text,
        "options": ether / IP(src="10.1.2.3", dst="8.8.8.8", options=b"\x94\x04\x00\x00") / TCP() / text,
        "vlan": ether / Dot1Q(vlan=5) / v4 / TCP() / text,
        "vlans": ether / Dot1AD(vlan=5) / Dot1Q(vlan=6) / Dot1Q(vlan=7) / v6 / UDP() / text,
        "tcp6": ether / v6 / TCP() / text,
        "icmp6": ether / v6 / ICMPv6EchoRequest(data=b"some") / Raw(b"odd"),
        "extensions": ether / v6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / text,
        "home": ether / v6 / IPv6ExtHdrDestOpt(options=[HAO(hoa="2001:78::1")]) / UDP(sport=1, dport=2) / text,
        "mobility6": ether / v6 / MIP6MH_HoTI(),
        "vrrp6": ether / v6 / VRRPv3(addrlist=[]),
        "multicast": ether / IP(src="10.1.2.3", dst="224.0.0.251") / UDP() / text,
        "multicast6": ether / IPv6(src="2001:db8::17", dst="ff02::fb") / UDP() / text,
        "arp": ether / ARP(psrc="10.1.2.3", pdst="10.1.2.4"),
        "padded": ether / v4 / UDP(sport=1, dport=2) / Raw(b"x") / Padding(bytes(range(17))),
        "first-fragment": ether / first,
        "later-fragment": ether / later,
        "fragment6": ether / cut6(v6 / IPv6ExtHdrFragment() / UDP() / Raw(bytes(3000)), 1000)[0],
    }


NAMES = """
    tcp udp udp-without icmp icmp-error options vlan vlans tcp6 icmp6 extensions home
    mobility6 vrrp6 multicast multicast6 padded first-fragment later-fragment fragment6 arp
""".split()  # noqa: SIM905  (as short as can be)


def rewrite(data: bytes, number: int, linktype: int = ETHERNET) -> bytes:
    return UniqueAddresses(linktype).rewritten(data, number)


def addresses(packet: Any) -> tuple[str, str]:
    layer = packet.getlayer("IP") or packet.getlayer("IPv6")
    return layer.src, layer.dst


@pytest.mark.parametrize("number", [1, 2, 3, 255, 256, 65537, 2**24 - 1, 2**64 - 1])
@pytest.mark.parametrize("name", [one for one in NAMES if "fragment" not in one and one != "arp"])
def test_rewritten_packet_is_what_scapy_builds_with_its_addresses(
    lab_packets: dict[str, Any], name: str, number: int
) -> None:
    plain = lab_packets[name]
    found = Ether(rewrite(bytes(plain), number))
    assert addresses(found) != addresses(plain)
    expected = plain.copy()
    layer = expected.getlayer("IP") or expected.getlayer("IPv6")
    layer.src, layer.dst = addresses(found)
    assert bytes(found) == bytes(expected)


@pytest.mark.slow
def test_tshark_finds_right_checksums_only(lab_packets: dict[str, Any], tmp_path: Path) -> None:
    packets = [rewrite(bytes(lab_packets[name]), number) for name in NAMES for number in (0, 1, 2, 77)]
    (tmp_path / "out").write_bytes(pcap([Record(one, number, len(one)) for number, one in enumerate(packets)]))
    checks = [word for layer in ("ip", "tcp", "udp") for word in ("-o", f"{layer}.check_checksum:TRUE")]
    fields = [word for layer in ("ip", "tcp", "udp", "icmpv6") for word in ("-e", f"{layer}.checksum.status")]
    line = ["tshark", "-r", str(tmp_path / "out"), *checks, "-T", "fields", "-E", "occurrence=f", *fields]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    rows = [row.split("\t") for row in done.stdout.splitlines()]
    assert len(rows) == len(packets)
    statuses = [status for row in rows for status in row if status]
    assert set(statuses) <= {"1", "2", "3"}, "a checksum is bad"  # good, not verified (a fragment's), not present
    assert statuses.count("1") > len(packets)


def test_fragments_are_put_together_with_a_right_checksum(lab_packets: dict[str, Any]) -> None:
    first, later = (rewrite(bytes(lab_packets[name]), 9) for name in ("first-fragment", "later-fragment"))
    assert addresses(Ether(first)) == addresses(Ether(later)) != addresses(lab_packets["first-fragment"])
    assert later[34:] == bytes(lab_packets["later-fragment"])[34:], "there is no checksum in a later fragment"
    assert first[42:] == bytes(lab_packets["first-fragment"])[42:]
    assert first[40:42] != bytes(lab_packets["first-fragment"])[40:42]


def test_other_protocols_and_the_first_pass_stay(lab_packets: dict[str, Any]) -> None:
    assert rewrite(bytes(lab_packets["arp"]), 5) == bytes(lab_packets["arp"])
    assert rewrite(bytes(lab_packets["tcp"]), 0) == bytes(lab_packets["tcp"])


@pytest.mark.parametrize(
    ("linktype", "header"),
    [
        (101, b""),
        (228, b""),
        (0, b"\2\0\0\0"),
        (108, b"\0\0\0\2"),
        (113, bytes(14) + b"\x08\0"),
        (276, b"\x08\0" + bytes(18)),
        (276, b"\x81\0" + bytes(18) + b"\0\5\x08\0"),
    ],
)
def test_ip_is_found_behind_every_link_layer(lab_packets: dict[str, Any], linktype: int, header: bytes) -> None:
    data = bytes(lab_packets["tcp"])
    assert rewrite(header + data[14:], 5, linktype) == header + rewrite(data, 5)[14:]


def test_link_type_without_addresses_is_refused_by_number(save: Callable[..., str]) -> None:
    path = save(pcap(sample(1000, [60]), linktype=DBUS))
    with pytest.raises(ValueRefused, match=f"link type {DBUS}: "):
        FileSource([path], unique_ip=True)


def test_no_two_passes_give_an_address_the_same_and_both_directions_match(lab_packets: dict[str, Any]) -> None:
    there = bytes(lab_packets["tcp"])
    back = there[:26] + there[30:34] + there[26:30] + there[34:]
    seen = [addresses(Ether(rewrite(there, number))) for number in range(600)]
    assert len({source for source, _ in seen}) == len({target for _, target in seen}) == 600
    assert [addresses(Ether(rewrite(back, number)))[::-1] for number in range(600)] == seen


def test_wrong_checksum_stays_wrong_by_as_much(lab_packets: dict[str, Any]) -> None:
    data = bytearray(bytes(lab_packets["tcp"]))
    right = rewrite(bytes(data), 3)
    data[51] ^= 1
    wrong = rewrite(bytes(data), 3)
    assert sum_of(wrong[50:52], right[50:52]) in (1, 0xFFFE)


def sum_of(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) - int.from_bytes(other)) % 0xFFFF


@BOTH
def test_loops_have_addresses_of_their_own_and_the_capture_stays(
    publish: Publish, save: Callable[..., str], lab_packets: dict[str, Any], limit: int
) -> None:
    data = [bytes(lab_packets[name]) for name in NAMES] * 20
    path = save(pcap([Record(one, 1000 * number, len(one)) for number, one in enumerate(data)]))
    source = FileSource([path], limit, unique_ip=True)
    expected = [rewrite(one, number) for number in range(3) for one in data]
    for _ in range(2):
        assert [one.data for one in publish(source, loops=3)] == expected


# ---- addresses, once more: a plain reference ------------------------------------------------------------------------


def reference(data: bytes, number: int) -> bytes:
    """UniqueAddresses.rewrite() for raw IP, written for clearness."""
    found = bytearray(data)
    bits = int(f"{(number - 1) % 0xFFFFFF + 1:024b}"[::-1], 2)
    if not data or data[0] >> 4 not in (4, 6):
        return data
    four = data[0] >> 4 == 4
    fixed, size = (20, 4) if four else (40, 16)
    if len(data) < fixed or (four and (data[0] & 15) < 5):
        return data
    changes = []
    for place in (12, 16) if four else (8, 24):
        address = data[place : place + size]
        kept = address[0] in (0, 127, *range(224, 256)) if four else address[0] == 255 or not any(address[:8])
        word = place if four else place + 8
        before = found[word : word + 4]
        if not kept:
            found[word : word + 4] = (int.from_bytes(before) ^ bits).to_bytes(4)
        changes.append(int.from_bytes(found[word : word + 4]) - int.from_bytes(before))
    if four:
        fix(found, 10, sum(changes))
    where = transport(data, changes)
    if where is not None:
        place, protocol, change = where
        if protocol != 17 or found[place : place + 2] != b"\0\0":
            fix(found, place, change)
            if protocol == 17 and found[place : place + 2] == b"\0\0":
                found[place : place + 2] = b"\xff\xff"
    return bytes(found)


def fix(found: bytearray, place: int, change: int) -> None:
    """Take a change of the sum off a checksum, modulo 0xFFFF; 0 stands for 0xFFFF unless all that is summed is 0."""
    if change:
        old = int.from_bytes(found[place : place + 2])
        found[place : place + 2] = ((old - change) % 0xFFFF).to_bytes(2)


def transport(data: bytes, changes: list[int]) -> tuple[int, int, int] | None:
    """Where the checksum with the pseudo header is, of which protocol, and what changes it."""
    source, target = changes
    places = {6: 16, 17: 6, 33: 6, 58: 2, 136: 6}
    if data[0] >> 4 == 4:
        total = int.from_bytes(data[2:4])
        end = total if 0 < total <= len(data) else len(data)
        at, protocol = 4 * (data[0] & 15), data[9]
        if int.from_bytes(data[6:8]) & 0x1FFF or protocol == 58:
            return None
    else:
        total = int.from_bytes(data[4:6])
        end = 40 + total if 0 < total <= len(data) - 40 else len(data)
        at, protocol = 40, data[6]
        places |= {89: 12, 103: 2, 112: 6, 135: 4}
        while protocol in (0, 43, 44, 60):
            if end - at < 8 or (protocol == 44 and int.from_bytes(data[at + 2 : at + 4]) >> 3):
                return None
            if protocol == 43 and data[at + 3]:
                target = 0
            behind = at + (8 if protocol == 44 else 8 * (data[at + 1] + 1))
            if protocol == 60 and behind <= end and is_at_home(data[at + 2 : behind]):
                source = 0
            protocol, at = data[at], behind
    place = places.get(protocol)
    return None if place is None or at + place + 2 > end else (at + place, protocol, source + target)


def is_at_home(options: bytes) -> bool:
    """Whether there is a home address among destination options."""
    while len(options) > 1 and options[0] != 0xC9:
        options = options[1 if options[0] == 0 else 2 + options[1] :]
    return len(options) >= 18


HEADERS = st.one_of(
    st.builds(
        lambda first, length, rest, protocol, tail: bytes([first, 0]) + length + rest[:5] + bytes([protocol]) + tail,
        st.sampled_from([0x45, 0x46, 0x4F, 0x44, 0x40]),
        st.sampled_from([b"\0\0", b"\0\x14", b"\0\x28", b"\0\x1d", b"\xff\xff"]),
        st.sampled_from([bytes(5), b"\0\0\x20\0\1", b"\0\0\0\1\1", b"\0\0\x40\0\1"]),
        st.sampled_from([1, 6, 17, 33, 58, 136]),
        st.binary(max_size=80),
    ),
    st.builds(
        lambda length, protocol, tail: b"\x60\0\0\0" + length + bytes([protocol]) + tail,
        st.sampled_from([b"\0\0", b"\0\x08", b"\0\x20", b"\xff\xff"]),
        st.sampled_from([0, 6, 17, 43, 44, 58, 60, 89, 103, 112, 135, 136]),
        st.binary(max_size=33).flatmap(
            lambda head: st.lists(
                st.one_of(
                    st.builds(
                        lambda protocol, rest: bytes([protocol, 0]) + rest,
                        st.sampled_from([0, 6, 17, 43, 44, 58, 60, 112]),
                        st.binary(min_size=6, max_size=6),
                    ),
                    st.builds(
                        lambda protocol, option: bytes([protocol, 2]) + option.ljust(22, b"\0"),
                        st.sampled_from([6, 17, 60]),
                        st.sampled_from([b"\xc9\x10", b"\1\2\0\0\xc9\x10", b"\0\0\0\0\0\xc9\x10", b"\xc8\x10"]),
                    ),
                ),
                max_size=4,
            ).map(lambda extensions: head + b"".join(extensions))
        ),
    ),
    st.binary(max_size=100),
)


@hypothesis.settings(max_examples=600, deadline=None)
@hypothesis.given(HEADERS, st.integers(1, 2**64 - 1))
def test_any_bytes_are_rewritten_as_the_reference_does_it(data: bytes, number: int) -> None:
    found, expected = rewrite(data, number, RAW_IP), reference(data, number)
    assert found.replace(b"\xff\xff", b"\0\0") == expected.replace(b"\xff\xff", b"\0\0")
