"""The blocks around the packets: written here, read back here, and read by everybody else's programs."""

import mmap
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import SegmentError
from zbuf.shared.memory.layout import HEADER_BYTES, PAGE_BYTES
from zbuf.shared.memory.pcapng import Interface, interfaces, prologue, statistics

TWO = [Interface("eth0", 1, "the first"), Interface("wlan0", 1)]
START_NS, END_NS = 1_700_000_000_123_456_789, 1_700_000_009_987_654_321
LEDGER = {"received": 1001, "filtered": 1, "accepted": 1000, "delivered": 2**40, "dropped": 77}
CALM = settings(max_examples=300, derandomize=True, database=None, deadline=None)

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
needs_capinfos = pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed")
needs_tcpdump = pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")


# ---- round trips ----------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_INTERFACES = st.lists(st.builds(Interface, _TEXT, st.integers(0, 65535), _TEXT), max_size=5)


@CALM
@given(_INTERFACES, st.integers(1, 262144), _TEXT)
def test_interfaces_come_back_from_a_prologue(described: list[Interface], snaplen: int, application: str) -> None:
    assert interfaces(prologue(described, snaplen, application)) == described


@CALM
@given(_INTERFACES, _TEXT)
def test_prologue_is_whole_words_so_that_packets_stay_aligned(described: list[Interface], application: str) -> None:
    assert len(prologue(described, 1500, application)) % 4 == 0


def test_prologue_begins_as_the_draft_says() -> None:
    data = prologue(TWO, 1500, "zbuf")
    total = 12 + 16 + 8 + 4  # header, body, the application's option, the end of options
    assert data[:28] == struct.pack("<IIIHHq", 0x0A0D0D0A, total, 0x1A2B3C4D, 1, 0, -1) + struct.pack("<HH", 4, 4)
    assert data[28:total] == b"zbuf" + bytes(4) + struct.pack("<I", total)
    assert data[total : total + 4] == struct.pack("<I", 1)


# ---- damaged prologues ----------------------------------------------------------------------------------------------

GOOD = prologue(TWO, 1500, "zbuf")
SECTION_BYTES = 40
FIRST_BYTES = struct.unpack_from("<I", GOOD, SECTION_BYTES + 4)[0]


def changed(offset: int, value: int, data: bytes = GOOD) -> bytes:
    return data[:offset] + struct.pack("<I", value & 0xFFFFFFFF) + data[offset + 4 :]


def short_block(kind: int, body: bytes) -> bytes:
    total = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + total + body + total


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(GOOD[:-1], id="the last byte is missing"),
        pytest.param(GOOD[:-4], id="the last word is missing"),
        pytest.param(GOOD + b"\0", id="a byte too many"),
        pytest.param(GOOD + bytes(4), id="a word too many"),
        pytest.param(GOOD + bytes(12), id="a block of zeros"),
        pytest.param(GOOD[: SECTION_BYTES + 11], id="cut in the head of a block"),
        pytest.param(bytes(PAGE_BYTES), id="all zeros"),
        pytest.param(b"\xff" * PAGE_BYTES, id="all ones"),
        pytest.param(changed(4, 0), id="length 0"),
        pytest.param(changed(4, 8), id="length 8"),
        pytest.param(changed(4, SECTION_BYTES + 1), id="an odd length"),
        pytest.param(changed(4, SECTION_BYTES + 4), id="a length of a word too many"),
        pytest.param(changed(4, len(GOOD) + 4), id="a length past the end"),
        pytest.param(changed(4, 2**32 - 4), id="an enormous length"),
        pytest.param(changed(SECTION_BYTES + 4, FIRST_BYTES - 4), id="a length of a word too few"),
        pytest.param(changed(SECTION_BYTES, 6), id="a packet"),
        pytest.param(changed(SECTION_BYTES, 0x80000001), id="a block of an unknown type"),
        pytest.param(GOOD + short_block(1, bytes(9)), id="a block that ends within a word"),
        pytest.param(GOOD + short_block(1, b""), id="an interface without a body"),
        pytest.param(GOOD + short_block(1, bytes(4)), id="an interface without a snaplen"),
        pytest.param(GOOD + statistics(0, 0, 0, LEDGER), id="statistics"),
        pytest.param(b"", id="empty"),
        pytest.param(GOOD[SECTION_BYTES:], id="no section header"),
        pytest.param(GOOD[SECTION_BYTES:] + GOOD[:SECTION_BYTES], id="a section header at the end"),
        pytest.param(GOOD + GOOD, id="two section headers"),
        pytest.param(changed(0, 1), id="an interface for a section header"),
        pytest.param(short_block(0x0A0D0D0A, b""), id="a section header without a body"),
        pytest.param(changed(8, 0x4D3C2B1A), id="the other byte order"),
        pytest.param(changed(SECTION_BYTES - 4, SECTION_BYTES + 4), id="two lengths of a section header"),
        pytest.param(changed(len(GOOD) - 4, FIRST_BYTES - 4), id="two lengths of an interface"),
    ],
)
def test_damaged_prologue_is_refused(data: bytes) -> None:
    assert interfaces(GOOD) == TWO
    with pytest.raises(SegmentError, match=r"corrupt segment: .*prologue"):
        interfaces(data)


@CALM
@given(st.binary(max_size=200))
@example(b"")
def test_random_bytes_are_interfaces_or_a_segment_error(data: bytes) -> None:
    interfaces_or_segment_error(data)


@CALM
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8), st.integers(0, 2))
def test_mutated_prologue_is_interfaces_or_a_segment_error(offset: int, some: bytes, more: int) -> None:
    interfaces_or_segment_error(GOOD[:offset] + some + GOOD[offset + len(some) + more - 1 :])


@CALM
@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=40))
def test_any_option_is_an_interface_or_a_segment_error(code: int, length: int, value: bytes) -> None:
    body = struct.pack("<HHIHH", 1, 0, 1500, code, length) + value + bytes(-len(value) % 4)
    interfaces_or_segment_error(GOOD[:SECTION_BYTES] + short_block(1, body))


@pytest.mark.parametrize("length", [5, 8, 100, 65535])
def test_option_that_is_longer_than_its_block_is_passed_over(length: int) -> None:
    body = struct.pack("<HHIHH", 7, 0, 1500, 2, length) + b"eth0"
    assert interfaces(GOOD[:SECTION_BYTES] + short_block(1, body)) == [Interface("", 7)]


def interfaces_or_segment_error(data: bytes) -> None:
    try:
        found = interfaces(data)
    except SegmentError:
        return
    assert all(isinstance(interface, Interface) for interface in found)


# ---- files for other programs ---------------------------------------------------------------------------------------


class Store:
    """A descriptor whose packets this file looks at in its buffer A, without a segment of /dev/shm."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 3 * PAGE_BYTES)
        self.descriptor = Descriptor(snaplen=1500)
        self.descriptor.set_buffers(self.memory, PAGE_BYTES, 2 * PAGE_BYTES, PAGE_BYTES)

    def blocks(self) -> bytes:
        """The packet blocks in buffer A."""
        begins = PAGE_BYTES + HEADER_BYTES
        return self.memory[begins : begins + self.descriptor.slots()["lengths"][0]]


def blocks(packets: Sequence[tuple[bytes, int, int, str]]) -> bytes:
    """The packet blocks that a descriptor makes of (data, time_ns, interface, direction), a bufferful at most."""
    store = Store()
    for data, time_ns, interface, direction in packets:
        store.descriptor.append_bytes(data, time_ns=time_ns, interface=interface, direction=direction)
    assert store.descriptor.slots()["packets"] == (len(packets), 0)
    return store.blocks()


def frame(number: int) -> bytes:
    """An Ethernet frame, padded to the length that the wire wants."""
    return b"\xff" * 6 + bytes([2, 0, 0, 0, 0, number]) + b"\x88\xb5" + bytes([number]) * (46 + number)


PACKETS = [(frame(number), START_NS + number, number % 2, ("in", "out", "inout")[number % 3]) for number in range(9)]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "capture.pcapng"
    ends = [statistics(number, START_NS, END_NS, LEDGER) for number in range(2)]
    path.write_bytes(prologue(TWO, 1500, "zbuf test") + blocks(PACKETS) + b"".join(ends))
    return path


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not re.search("warning|error|malformed|cut short", done.stderr, re.IGNORECASE), done.stderr
    return done.stdout


@needs_tcpdump
def test_tcpdump_reads_a_file_of_prologue_packets_and_statistics(capture: Path) -> None:
    command = ["tcpdump", "--time-stamp-precision=nano", "-tt", "-n", "-e", "-r", str(capture)]
    lines = [line for line in output_of(*command).splitlines() if line[0].isdigit()]  # the others are dumps
    assert [line.split()[0] for line in lines] == [f"1700000000.{123456789 + number}" for number in range(9)]
    assert [int(length) for line in lines for length in re.findall(r"length (\d+):", line)] == [
        len(data) for data, *_ in PACKETS
    ]


def test_scapy_reads_a_file_of_prologue_packets_and_statistics(capture: Path) -> None:
    from scapy.utils import RawPcapNgReader

    names = [interface.name.encode() for interface in TWO]
    records: Any = RawPcapNgReader(str(capture))
    with records as reader:
        for (data, metadata), packet in zip(reader, PACKETS, strict=True):
            assert (data, metadata.tshigh << 32 | metadata.tslow) == packet[:2]
            assert (metadata.ifname, metadata.tsresol) == (names[packet[2]], 10**9)
        assert [(linktype, snaplen) for linktype, snaplen, _ in reader.interfaces] == [(1, 1500), (1, 1500)]


@pytest.mark.slow
@needs_tshark
def test_tshark_reads_a_file_of_prologue_packets_and_statistics(capture: Path) -> None:
    fields = ["frame.time_epoch", "frame.len", "frame.interface_name", "frame.packet_flags_direction"]
    lines = tshark(capture, fields)
    for line, (data, time_ns, interface, direction) in zip(lines, PACKETS, strict=True):
        flags = {"in": 1, "out": 2}.get(direction)
        assert line[:3] == [f"{time_ns // 10**9}.{time_ns % 10**9:09}", str(len(data)), TWO[interface].name]
        assert (int(line[3], 0) if line[3] else None) == flags


@pytest.mark.slow
@needs_tshark
def test_tshark_reads_how_many_packets_were_lost_before_one(tmp_path: Path) -> None:
    path = tmp_path / "lost.pcapng"
    path.write_bytes(prologue(TWO, 1500, "zbuf test") + blocks_after_a_loss())
    assert tshark(path, ["frame.drop_count", "frame.len"]) == [["", "60"], ["5", "61"], ["", "62"]]


def blocks_after_a_loss() -> bytes:
    """The blocks of frames 0, 1 and 2, with five packets lost behind the first."""
    store, ack_page = Store(), bytearray(64)
    store.descriptor.add_reader(0, ack_page, -1)
    store.descriptor.append_bytes(frame(0))
    store.descriptor.rotate()
    before = store.blocks()
    for _ in range(2 + 5):  # two fill buffer B, and the reader has not given A back
        store.descriptor.append_bytes(bytes(1500))
    assert store.descriptor.ledger()["dropped"] == 5
    ack_page[:4] = struct.pack("<I", 1)
    for number in (1, 2):
        store.descriptor.append_bytes(frame(number))
    return before + store.blocks()


def tshark(path: Path, fields: Sequence[str], *options: str) -> list[list[str]]:
    """The values of fields, a list for each line of tshark's answer."""
    command = ["tshark", "-r", str(path), *options, "-T", "fields"]
    done = subprocess.run([*command, *(f"-e{field}" for field in fields)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.slow
@needs_tshark
def test_values_of_the_statistics_arrive_in_tshark(capture: Path) -> None:
    names = ["received", "accepted_by_filter", "dropped_by_os", "delivered_to_user"]
    fields = [f"pcapng.options.option.data.interface.{name}" for name in names]
    (line,) = tshark(capture, fields, "-X", "read_format:MIME Files Format")  # the file's blocks, not its packets
    values = [LEDGER[name] for name in ("received", "accepted", "dropped", "delivered")]
    assert line == [f"{value},{value}" for value in values]  # one of each interface


@needs_capinfos
def test_statistics_are_counted_to_their_interface_in_capinfos(capture: Path) -> None:
    answer = output_of("capinfos", str(capture))
    assert re.findall(r"^ *Name = (.*)", answer, re.MULTILINE) == [interface.name for interface in TWO]
    assert re.findall(r"^ *Description = (.*)", answer, re.MULTILINE) == ["the first"]
    assert re.findall(r"Number of stat entries = (\d+)", answer) == ["1", "1"]
    assert re.findall(r"Capture length = (\d+)", answer) == ["1500", "1500"]
    assert re.findall(r"Time precision = (.*)", answer) == ["nanoseconds (9)"] * 2
    assert re.search(r"Capture application: zbuf test$", answer, re.MULTILINE)


def test_statistics_are_a_block_as_the_draft_says() -> None:
    def stamp(time_ns: int) -> bytes:
        return struct.pack("<II", time_ns // 2**32, time_ns % 2**32)

    counts = {4: LEDGER["received"], 6: LEDGER["accepted"], 7: LEDGER["dropped"], 8: LEDGER["delivered"]}
    body = struct.pack("<I", 1) + stamp(END_NS)
    for code, value in ((2, stamp(START_NS)), (3, stamp(END_NS))):
        body += struct.pack("<HH", code, 8) + value
    for code, count in counts.items():
        body += struct.pack("<HHQ", code, 8, count)
    assert statistics(1, START_NS, END_NS, LEDGER) == short_block(5, body + bytes(4))


@pytest.mark.parametrize("linktype", [1, 101, 113, 276])
def test_linktype_and_snaplen_arrive(linktype: int, tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    path = tmp_path / "one.pcapng"
    path.write_bytes(prologue([Interface("any", linktype)], 262144, "zbuf") + blocks([(b"\x45" * 60, 1, 0, "in")]))
    records: Any = RawPcapNgReader(str(path))
    with records as reader:
        assert [metadata.linktype for _, metadata in reader] == [linktype]
        assert [snaplen for _, snaplen, _ in reader.interfaces] == [262144]
