"""Every capture comes out byte for byte: data, both lengths, times to the nanosecond, link type and order.

A producer in one process reads the file, and a reader in another sends back what it got. Three judges say what that
must be: the packets that a generated file was made from; the strict reader of captures.py, which knows neither libpcap
nor the product; and libpcap, by what `tcpdump -r FILE -w -` writes. libpcap reads some files otherwise than they say;
where it does, the test tells what it makes of them:

* it cuts packets to the snapshot length in the file's header, which they may be over;
* it takes the fraction of a second for a signed number, in a pcap file of the byte order of this machine;
* it gives the packets of all interfaces of a pcapng file without telling from which they come;
* what it writes has 32 bits for seconds and 32 for nanoseconds, so that tcpdump's files hold no time past 2106: such
  times are compared with the strict reader's alone.
"""

import random
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support import reference
from support.captures import (
    DBUS,
    ETHERNET,
    FORMATS,
    RAW_IP,
    SIZES,
    Record,
    pcap,
    pcapng,
    read_capture,
    sample,
)
from support.commands import Commands, run
from support.processes import LIMIT_S, Remote
from support.project import CORPUS

from zbuf.shared.errors import CaptureFileError, ZbufError

PRELOADED, STREAMED = 1 << 30, 0
MANY_SIZES = [1, *range(1600), *(2**bits + more for bits in range(11, 16) for more in (-1, 0, 1)), 65534, 65535]
SMALLEST_BUFFER_BYTES = 128 << 10
"""Smallest power of two that holds a packet of 65535 bytes; so the sizes above fill a buffer dozens of times."""

with_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no folder of captures at {CORPUS}")


# ---- what comes out, and what libpcap says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of a capture file."""

    linktype: int
    records: list[Record]
    warnings: list[str]


@dataclass(frozen=True)
class Verdict:
    """What libpcap says of a capture file."""

    refused: bool
    damaged: bool
    linktype: int
    records: list[Record]


class NoVerdict(Exception):
    """tcpdump reads the file, but stops at its filter, even an empty one: libpcap has none for this link type."""


def judge(path: Path) -> Verdict:
    """Have tcpdump read a capture file and write it anew, in nanoseconds."""
    command = ["tcpdump", "-r", str(path), "--nano", "-w", "-"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=LIMIT_S)
    if b"unknown data link type" in done.stderr:
        raise NoVerdict(done.stderr.decode())
    if not done.stdout:
        assert done.returncode == 1, f"tcpdump wrote nothing of {path}, and says that all is well"
        return Verdict(refused=True, damaged=False, linktype=-1, records=[])
    written = read_capture(done.stdout)
    return Verdict(False, done.returncode != 0, written.linktypes[0], written.records)


_PRODUCING = """
def publish():
    count = producer.publish(source)
    producer.close()
    return count, source.warnings
"""
_READING = """
def read_all():
    got = [(bytes(one), one.time_ns, one.wirelen, one.interface, one.caplen) for one in reader]
    answer = reader.linktype, got, reader.end_reason, reader.ledger().dropped
    reader.close()
    return answer
"""


class Pair:
    """A process that publishes capture files, one after the other, and another one that reads what it publishes."""

    def __init__(self, remote: Callable[[], Remote], name: str) -> None:
        self._remote, self._name = remote, name
        self._start()

    def _start(self) -> None:
        self._producing, self._reading = self._remote(), self._remote()
        self._producing.do(_PRODUCING, name=self._name)
        self._reading.do(_READING, name=self._name)

    def renew(self) -> None:
        """Have two new processes in place of these, one of which may have died, or be in the middle of a capture."""
        self._producing.kill()
        self._reading.kill()
        self._start()

    def open(self, path: Path, limit: int = PRELOADED) -> None:
        """Have the file opened for pass_on(); raises CaptureFileError where the producer's process does."""
        self._producing.do("source = FileSource([path], limit)", path=str(path), limit=limit)

    def pass_on(self, buffer_size: int | None = None) -> Outcome:
        """Have the file published by one process and read by the other."""
        self._producing.do("interfaces = source.interfaces; options = dict(lossless=True, linger_s=None)")
        self._producing.do("producer = Producer(name, linktype=source.linktype, interfaces=interfaces, **options)")
        self._reading.do("reader = connect(name, buffer_size=size)", size=buffer_size)
        self._reading.begin("read_all()")
        count, warnings = self._producing.ask("publish()")
        linktype, packets, end_reason, dropped = self._reading.result()
        assert (end_reason, dropped, count) == ("closed", 0, len(packets))
        assert all(len(data) == caplen for data, *_, caplen in packets)
        return Outcome(linktype, [Record(*one[:4]) for one in packets], warnings)

    def through(self, path: Path, limit: int = PRELOADED, buffer_size: int | None = None) -> Outcome:
        """open() and pass_on()."""
        self.open(path, limit)
        return self.pass_on(buffer_size)


@pytest.fixture
def pair(remote: Callable[[], Remote], producer_name: str) -> Pair:
    return Pair(remote, producer_name)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """save(image, name): a file with these bytes."""

    def save_as(image: bytes, name: str = "lab.pcap") -> Path:
        path = tmp_path / name
        path.write_bytes(image)
        return path

    return save_as


Save = Callable[..., Path]


def difference(got: list[Record], expected: list[Record]) -> str:
    """Where two lists of packets first differ, in a line; empty where they don't."""
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one != other:
            fields = [name for name in ("data", "time_ns", "wirelen", "interface") if _field(one, name, other)]
            values = [(getattr(one, name), getattr(other, name)) for name in fields if name != "data"]
            return f"packet {number}, {len(one.data)} bytes for {len(other.data)}: {fields} differ: {values}"
    return "" if len(got) == len(expected) else f"{len(got)} packets for {len(expected)}"


def _field(one: Record, name: str, other: Record) -> bool:
    return bool(getattr(one, name) != getattr(other, name))


def without_interfaces(records: list[Record]) -> list[Record]:
    """Packets as libpcap gives them: it does not tell interfaces apart."""
    return [replace(one, interface=0) for one in records]


def without_times(records: list[Record]) -> list[Record]:
    return [replace(one, time_ns=0) for one in records]


# ---- generated captures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
@pytest.mark.parametrize("form", FORMATS)
def test_capture_of_any_format_reaches_another_process_byte_for_byte(
    pair: Pair, save: Save, form: str, limit: int
) -> None:
    unit, make = FORMATS[form]
    image = make(sample(unit))
    outcome = pair.through(save(image), limit)
    assert difference(outcome.records, sample(unit)) == ""
    assert outcome.records == read_capture(image).records
    assert (outcome.linktype, outcome.warnings) == (ETHERNET, [])


@pytest.mark.parametrize("buffer_size", [None, SMALLEST_BUFFER_BYTES], ids=["one buffer", "many buffers"])
@pytest.mark.parametrize("form", ["pcap-le-ns", "pcap-be-ns", "pcapng-le-ns", "pcapng-be-ns"])
def test_packets_of_all_sizes_come_whole_wherever_buffers_end(
    pair: Pair, save: Save, form: str, buffer_size: int | None
) -> None:
    records = sample(1, MANY_SIZES)
    outcome = pair.through(save(FORMATS[form][1](records)), buffer_size=buffer_size)
    assert difference(outcome.records, records) == ""


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("resolution", [*range(13), *(0x80 | bits for bits in (0, 1, 10, 20, 29, 30, 32))])
def test_times_of_any_resolution_come_to_the_nanosecond(pair: Pair, save: Save, order: Any, resolution: int) -> None:
    # Made of nanoseconds, so that a tick longer than one has lost some of them in the file already: what must come out
    # is what the file says, rounded down, as the strict reader and libpcap both have it.
    records = [replace(one, time_ns=one.time_ns % 10**16) for one in sample(1)]  # 1970: 64 bits of picoseconds, no more
    image = pcapng(records, order=order, resolutions=[resolution])
    path = save(image)
    outcome = pair.through(path)
    assert difference(outcome.records, read_capture(image).records) == ""
    assert difference(outcome.records, judge(path).records) == ""


@pytest.mark.parametrize("linktype", [0, ETHERNET, 9, RAW_IP, 105, 113, 127, 129, 147, 162, 195, 228, DBUS, 276, 289])
@pytest.mark.parametrize("make", [pcap, pcapng])
def test_link_type_comes_out_with_the_number_that_files_have(
    pair: Pair, save: Save, make: Callable[..., bytes], linktype: int
) -> None:
    # libpcap has other numbers for some of them inside: 101 is 12 or 14 there.
    path = save(make(sample(1000, [60, 0, 3]), linktype=linktype))
    outcome = pair.through(path)
    assert outcome.linktype == linktype == judge(path).linktype
    assert difference(outcome.records, sample(1000, [60, 0, 3])) == ""


def test_packets_of_several_interfaces_come_in_order_each_by_its_own_clock(pair: Pair, save: Save) -> None:
    records = [replace(one, interface=number % 3) for number, one in enumerate(sample(1_000_000_000))]
    path = save(pcapng(records, resolutions=[6, 9, 0]))
    outcome = pair.through(path)
    assert difference(outcome.records, records) == ""
    assert difference(without_interfaces(outcome.records), judge(path).records) == ""


def test_times_that_jump_back_and_forth_and_repeat_keep_the_order_of_the_file(pair: Pair, save: Save) -> None:
    chance = random.Random(3)
    records = [replace(one, time_ns=chance.choice([0, 5, 2**32 * 10**9 - 1])) for one in sample(1, [60] * 500)]
    path = save(pcap(records, nanoseconds=True))
    outcome = pair.through(path)
    assert difference(outcome.records, records) == ""
    assert difference(outcome.records, judge(path).records) == ""


def test_packets_longer_than_the_files_snapshot_length_come_whole(pair: Pair, save: Save) -> None:
    records = sample(1000)
    path = save(pcap(records, snaplen=61))
    outcome = pair.through(path)
    assert difference(outcome.records, records) == ""
    assert difference([replace(one, data=one.data[:61]) for one in outcome.records], judge(path).records) == ""


def test_captured_length_may_exceed_the_original_length(pair: Pair, save: Save) -> None:
    records = [replace(one, wirelen=number) for number, one in enumerate(sample(1000, [60, 3, 1514]))]
    path = save(pcap(records))
    outcome = pair.through(path)
    assert difference(outcome.records, records) == ""
    assert difference(outcome.records, judge(path).records) == ""


@pytest.mark.parametrize("order", ["<", ">"])
def test_fraction_of_a_second_above_one_is_added(pair: Pair, save: Save, order: Any) -> None:
    # No well-formed file has such fractions. To libpcap they are signed in files of this machine's byte order alone.
    fractions = [999_999, 1_000_000, 2**31 - 1, 2**31, 2**32 - 1]
    packets = [struct.pack(f"{order}4I", 1_700_000_000, fraction, 1, 1) + b"x" for fraction in fractions]
    outcome = pair.through(save(pcap([], order=order) + b"".join(packets)))
    assert [one.time_ns for one in outcome.records] == [1_700_000_000 * 10**9 + one * 1000 for one in fractions]


# ---- damaged and foreign files ---------------------------------------------------------------------------------------

ETHERNET_NG = pcapng(sample(1000, [60, 3, 1514]))
RAW_NG = pcapng(sample(1000, [60]), linktype=RAW_IP)
SECTION_BYTES, INTERFACE_BYTES = 28, 32
OTHER_SNAPLEN = bytearray(ETHERNET_NG[SECTION_BYTES : SECTION_BYTES + INTERFACE_BYTES])
OTHER_SNAPLEN[12:16] = struct.pack("<I", 100)
WHOLE = pcap(sample(1000, [60, 3, 1514]))


def patched(image: bytes, offset: int, *values: int) -> bytes:
    """The image with 32-bit numbers at an offset, which may count from its end."""
    changed = bytearray(image)
    struct.pack_into(f"<{len(values)}I", changed, offset % len(image), *values)
    return bytes(changed)


FOREIGN: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\xd4",
    "a magic alone": WHOLE[:4],
    "half a header": WHOLE[:12],
    "a header but for its last byte": WHOLE[:23],
    "text": b"These are no packets, but a text that is longer than any header of a capture is.\n" * 3,
    "zeros": bytes(4096),
    "version 1.4": patched(WHOLE, 4, 4 << 16 | 1),
    "version 3.0": patched(WHOLE, 4, 3),
    "pcapng: a section header cut short": ETHERNET_NG[:20],
    "pcapng: no interface": ETHERNET_NG[:SECTION_BYTES],
    "pcapng: a packet before its interface": ETHERNET_NG[:SECTION_BYTES]
    + ETHERNET_NG[SECTION_BYTES + INTERFACE_BYTES :],
    "pcapng: no byte order": patched(ETHERNET_NG, 8, 0x11223344),
    "pcapng: version 2": patched(ETHERNET_NG, 12, 2),
    "pcapng: a block of 4 bytes": patched(ETHERNET_NG, SECTION_BYTES + 4, 4),
    "pcapng: a block of 4 GB": patched(ETHERNET_NG, SECTION_BYTES + 4, 0xFFFF_FFFC),
    "pcapng: lengths of a block that differ": patched(ETHERNET_NG, SECTION_BYTES + INTERFACE_BYTES - 4, 36),
}
BROKEN: dict[str, bytes] = {
    "cut in the data": WHOLE[:-1],
    "cut in a packet's header": WHOLE[: -1514 - 3],
    "nothing but a header and half a packet": WHOLE[:50],
    "a packet of 4 GB": patched(WHOLE, -1514 - 8, 0xFFFF_FFFF),
    "a packet of 16 MB": patched(WHOLE, -1514 - 8, 1 << 24),
    "pcapng: cut in the data": ETHERNET_NG[:-100],
    "pcapng: cut before the last length": ETHERNET_NG[:-4],
    "pcapng: lengths that differ": patched(ETHERNET_NG, -4, 8),
    "pcapng: a packet longer than its block": patched(ETHERNET_NG, -1516 - 4 - 8, 1600),
    "pcapng: a packet of 4 GB": patched(ETHERNET_NG, -1516 - 4 - 8, 0xFFFF_FFFF),
    "pcapng: a packet of an interface that is not there": patched(ETHERNET_NG, -1516 - 4 - 20, 7),
    "pcapng: a block of 4 bytes": ETHERNET_NG + struct.pack("<3I", 6, 4, 4),
    "rubbish behind the packets": WHOLE + b"rubbish",
    "pcapng: rubbish behind the packets": ETHERNET_NG + b"rubbish",
}


def test_what_libpcap_takes_for_damage_is_none(pair: Pair, save: Save) -> None:
    whole = sample(1000, [60, 3, 1514])
    for more, records in (
        (RAW_NG[SECTION_BYTES : SECTION_BYTES + INTERFACE_BYTES], []),
        (bytes(OTHER_SNAPLEN), []),
        (pcapng(sample(1000, [60]), order=">"), [replace(one, interface=1) for one in sample(1000, [60])]),
    ):
        path = save(ETHERNET_NG + more)
        assert judge(path).damaged, "this is no case for this test"
        outcome = pair.through(path)
        assert outcome.warnings == []
        assert difference(outcome.records, whole + records) == ""


@pytest.mark.parametrize("case", FOREIGN)
def test_file_that_libpcap_refuses_is_refused(pair: Pair, save: Save, case: str) -> None:
    path = save(FOREIGN[case])
    assert judge(path).refused, "this is no case for this test"
    with pytest.raises(CaptureFileError) as refusal:
        pair.open(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_zbufd_refuses_what_libpcap_refuses_in_one_line_and_exits_with_1(save: Save, run_dir: Path) -> None:
    for case in ("nothing", "text", "half a header", "pcapng: no interface"):
        path = save(FOREIGN[case])
        done = run("zbufd", "replay", path, "--run-dir", run_dir)
        assert (done.returncode, done.stdout) == (1, ""), case
        assert done.stderr.startswith(f"zbufd: {path}: "), case
        assert done.stderr.count("\n") == 1, case
        assert list(run_dir.iterdir()) == [], case


@pytest.mark.parametrize("limit", [PRELOADED, STREAMED], ids=["preloaded", "streamed"])
@pytest.mark.parametrize("case", BROKEN)
def test_file_that_breaks_in_the_middle_gives_what_was_whole_and_a_warning(
    pair: Pair, save: Save, case: str, limit: int
) -> None:
    path = save(BROKEN[case])
    verdict = judge(path)
    assert verdict.damaged, "this is no case for this test"
    outcome = pair.through(path, limit)
    assert difference(outcome.records, verdict.records) == ""
    whole = sample(1000, [60, 3, 1514])
    assert difference(outcome.records, whole[: len(verdict.records)]) == ""
    assert outcome.linktype == verdict.linktype == ETHERNET
    assert len(outcome.warnings) == 1
    assert outcome.warnings[0].startswith(f"{path}: ")
    assert f"{len(verdict.records)} whole packets" in outcome.warnings[0]
    assert "\n" not in outcome.warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pcap-le-us", "pcap-be-ns", "pcapng-le-us", "pcapng-be-ns"])
def test_file_with_any_one_byte_changed_gives_what_the_second_reader_reads_of_it(
    pair: Pair, save: Save, form: str
) -> None:
    unit, make = FORMATS[form]
    image = make(sample(unit, [3, 20, 0]))
    chance = random.Random(form)
    wrong = {}
    refused = damaged = 0
    for at in range(len(image)):
        changed = bytearray(image)
        changed[at] ^= 1 << chance.randrange(8)
        found = reference.read(bytes(changed))
        refused += not found.faces
        damaged += found.damaged_at is not None
        problem = compare_with_second_reader(pair, save(bytes(changed)), found)
        if problem:
            wrong[at] = f"{problem}: {changed.hex()}"
    assert wrong == {}
    assert refused > 0
    assert damaged > refused


def compare_with_second_reader(pair: Pair, path: Path, found: reference.Found) -> str:
    """Pass a file on, and say where that disagrees with what the second reader found; empty where it agrees."""
    try:
        pair.open(path)
    except CaptureFileError as refusal:
        return f"refused: {refusal}" if found.faces else ""
    if not found.faces:
        return "it should be refused"
    try:
        outcome = pair.pass_on()
    except (ZbufError, EOFError) as error:
        pair.renew()
        return repr(error)
    wanted_warnings = (found.damaged_at is not None) + (found.saturated > 0)
    if (outcome.linktype, len(outcome.warnings)) != (found.faces[0].linktype, wanted_warnings):
        return f"link type {outcome.linktype} for {found.faces[0].linktype}, warnings {outcome.warnings}"
    wanted = [Record(one.data, one.time_ns, one.wirelen, one.interface) for one in found.packets]
    return difference(outcome.records, wanted)


# ---- captures of others ----------------------------------------------------------------------------------------------

LIBPCAP_READS_OTHERWISE = {
    # The fraction of the last packet is 0x80000000 microseconds, to libpcap a negative number.
    "timestamp_invalid_micro.pcap": [
        1418145369_999999000,
        1418145371_000000000,
        (1418145370 - 2147) * 10**9 - 483648000,
    ]
}
"""The packets' times where libpcap reads other ones than the file says."""
TCPDUMP_CAN_NOT_WRITE = {
    "atm-oam-loopback-print-overrun.pcap": "1159 seconds' worth of microseconds, more nanoseconds than 32 bits hold",
    "timestamp_invalid_micro.pcap": "2147 seconds' worth of microseconds",
    "time_2107.pcapng": "more seconds than 32 bits hold",
}
"""Captures whose times don't fit into tcpdump's files, and why."""


def as_written(path: Path) -> tuple[int, list[Record]]:
    """The link type and the packets of a capture of one link type, as the strict reader finds them."""
    capture = read_capture(path.read_bytes())
    assert len(set(capture.linktypes)) == 1
    return capture.linktypes[0], without_interfaces(capture.records)


def as_libpcap_reads(path: Path, records: list[Record]) -> list[Record]:
    """Packets of a capture as libpcap changes them: cut to the file's snapshot length, and some with another time."""
    head = path.read_bytes()[:24]
    if head[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4"):
        (snaplen,) = struct.unpack_from("<I" if head[0] == 0xD4 else ">I", head, 16)
        records = [replace(one, data=one.data[:snaplen]) for one in records]
    times = LIBPCAP_READS_OTHERWISE.get(path.name)
    if times is not None:
        assert times != [one.time_ns for one in records], "nothing is read otherwise here"
        records = [replace(one, time_ns=time_ns) for one, time_ns in zip(records, times, strict=True)]
    return records


def corpus_problem(pair: Pair, path: Path) -> str:
    """Pass a capture on, and say where that disagrees with either judge; empty where it agrees."""
    try:
        outcome, verdict = pair.through(path), judge(path)
    except (ZbufError, EOFError, BrokenPipeError, ConnectionResetError) as error:  # it broke, or its process died
        pair.renew()
        return repr(error)
    linktype, expected = as_written(path)
    if not outcome.linktype == linktype == verdict.linktype:
        return f"link type {outcome.linktype}, to the strict reader {linktype}, to libpcap {verdict.linktype}"
    if outcome.warnings or verdict.damaged:
        return f"damaged is {verdict.damaged} to libpcap, and the warnings are {outcome.warnings}"
    by_tcpdump, got = verdict.records, as_libpcap_reads(path, outcome.records)
    if path.name in TCPDUMP_CAN_NOT_WRITE:
        if difference(got, by_tcpdump) == "":
            return "tcpdump can write it after all"
        by_tcpdump, got = without_times(by_tcpdump), without_times(got)
    return difference(outcome.records, expected) or difference(got, by_tcpdump)


@pytest.mark.slow
@with_corpus
def test_every_capture_of_the_corpus_comes_out_as_the_strict_reader_and_libpcap_read_it(pair: Pair) -> None:
    files = [*sorted((CORPUS / "tcpdump").iterdir()), CORPUS / "mix.pcap"]
    assert len(files) > 400
    problems = {path.name: corpus_problem(pair, path) for path in files}
    assert {name: problem for name, problem in problems.items() if problem} == {}


# ---- the commands ----------------------------------------------------------------------------------------------------


def replay_and_dump(commands: Commands, path: Path, name: str, dumped: Path, status: int = 0) -> None:
    """Write what zbufd replays of a capture to a file of zbuf dump's; the replay ends with this exit status."""
    replay = commands.start("zbufd", "replay", path, "--name", name, "--lossless", "--wait-readers", "1")
    dump = commands.start("zbuf", "dump", name, "-w", dumped, "--wait-producer", str(LIMIT_S))
    _, told = dump.communicate(timeout=LIMIT_S)
    assert dump.returncode == 0, told
    _, told = replay.communicate(timeout=LIMIT_S)
    assert replay.returncode == status, told


def printed(path: Path) -> bytes:
    """What tcpdump prints of a capture, every byte of the packets included; times in UTC, to the nanosecond."""
    command = ["tcpdump", "-r", str(path), "-nn", "-e", "-tt", "--nano", "-xx"]
    return subprocess.run(command, capture_output=True, check=True, timeout=LIMIT_S).stdout


def unlimited(path: Path, folder: Path) -> Path:
    """A copy of a capture that libpcap reads whole: a pcap file with a header that limits no packet's length."""
    image = bytearray(path.read_bytes())
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}.get(bytes(image[:4]))
    if order is not None:
        struct.pack_into(f"{order}I", image, 16, 262_144)
    copy = folder / "unlimited"
    copy.write_bytes(image)
    return copy


def check_dump(commands: Commands, path: Path, name: str) -> bytes:
    """The dump of a capture's replay prints as the whole capture, and the strict reader finds the same in it."""
    with tempfile.TemporaryDirectory(prefix="zb") as folder:
        dumped = Path(folder) / "dumped.pcapng"
        replay_and_dump(commands, path, name, dumped)
        linktype, expected = as_written(path)
        capture = read_capture(dumped.read_bytes())
        assert difference(capture.records, expected) == ""
        assert capture.linktypes == [linktype]
        assert capture.names == [path.name]
        text = printed(dumped)
        assert text == printed(unlimited(path, Path(folder))), (
            "tcpdump prints something else"
        )  # no assert of bytes: their diff takes minutes
        return text


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pcap-be-ns", "pcapng-le-ns"])
def test_tcpdump_prints_a_generated_capture_and_its_dump_alike(
    commands: Commands, producer_name: str, save: Save, form: str
) -> None:
    path = save(FORMATS[form][1](sample(1)), "lab.cap")
    assert check_dump(commands, path, producer_name).count(b"\n") > len(SIZES)


@pytest.mark.parametrize("by_pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("snaplen", [61, 65535], ids=["over it", "within it"])
def test_dump_of_packets_over_a_snapshot_length_and_within_it_is_whole_to_tcpdump_and_tshark(
    save: Save, tmp_path: Path, snaplen: int, by_pipe: bool
) -> None:
    records = sample(1000, [60, 1514, 61, 62])
    path, dumped = save(pcap(records, snaplen=snaplen)), tmp_path / "dumped.pcapng"
    with path.open("rb") as file:
        piped = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        with piped:
            done = run("zbuf", "dump", "-r", "-" if by_pipe else path, "-w", dumped, stdin=piped.stdout)
    assert done.returncode == 0, done.stderr
    verdict = judge(dumped)
    assert (verdict.damaged, difference(verdict.records, records)) == (False, "")
    fields = subprocess.run(["tshark", "-r", str(dumped), "-T", "fields", "-e", "frame.cap_len"], capture_output=True)
    assert [int(one) for one in fields.stdout.split()] == [60, 1514, 61, 62]


@pytest.mark.slow
@with_corpus
@pytest.mark.parametrize(
    "name",
    [
        "tcpdump/pim-packet-assortment.pcap",  # packets longer than the snapshot length
        "tcpdump/of10_7050q.pcapng",
        "tcpdump/802_15_4-data.pcap",
        "tcpdump/LINKTYPE_IPV6.pcap",
        "tcpdump/LINKTYPE_PKTAP.pcap",
        "tcpdump/time_2106_max.pcap",
        "mix.pcap",
    ],
)
def test_tcpdump_prints_a_capture_of_the_corpus_and_its_dump_alike(
    commands: Commands, producer_name: str, name: str
) -> None:
    assert check_dump(commands, CORPUS / name, producer_name) != b""


def test_dump_of_a_broken_capture_is_a_whole_file_of_what_was_whole(
    commands: Commands, producer_name: str, save: Save, tmp_path: Path
) -> None:
    path = save(BROKEN["cut in the data"])
    replay_and_dump(commands, path, producer_name, tmp_path / "dumped.pcapng", status=1)
    assert read_capture((tmp_path / "dumped.pcapng").read_bytes()).records == judge(path).records
