"""zbuf.h by itself: compiled by whoever may want it, run under the sanitizers, and read back by other programs.

The programs are in native/. A test that a sanitizer finds nothing proves little unless it would find something: so the
header is also compiled with one of its orders or checks taken away, and then the same program has to fail.
"""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.project import ROOT, TESTS

from zbuf.shared.memory import layout
from zbuf.shared.memory.pcapng import Interface, prologue

NATIVE = TESTS / "support" / "native"
SHARED = ROOT / "shared"
HEADER = (SHARED / "zbuf.h").read_text()

STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
HANG_SECONDS = 300  # a lost wake-up never ends: this is how the test does, and no run comes near it

Build = Callable[..., Path]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(source, *flags): compile a program of native/, warning-free, as C11; header= compiles it with that one."""

    def build_program(source: str, *flags: str, header: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("build")
        if header is not None:
            (folder / "zbuf.h").write_text(header)
        include = f"-I{SHARED if header is None else folder}"
        compile_strictly("gcc", "-std=c11", *flags, include, str(NATIVE / source), "-o", str(folder / "program"))
        return folder / "program"

    return build_program


def compile_strictly(compiler: str, *arguments: str) -> None:
    done = subprocess.run([compiler, *STRICT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(program: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    if "unexpected memory mapping" in done.stderr:  # older ThreadSanitizers and vm.mmap_rnd_bits of 32
        command = ["setarch", "-R", *command]
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS)
    return done


# ---- compiling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["-O0", "-O3"])
@pytest.mark.parametrize(
    ("compiler", "standard"),
    [
        ("gcc", "c11"),
        ("gcc", "c17"),
        ("gcc", "gnu11"),
        ("g++", "c++11"),
        ("g++", "c++17"),
        ("g++", "c++20"),
        ("clang", "c11"),
        ("clang", "c17"),
        ("clang++", "c++11"),
        ("clang++", "c++17"),
    ],
)
def test_header_compiles_alone_without_a_warning(compiler: str, standard: str, level: str, tmp_path: Path) -> None:
    if shutil.which(compiler) is None and compiler.startswith("clang"):
        pytest.skip(f"{compiler} is not installed")
    language = "c++" if "++" in standard else "c"
    flags = [f"-std={standard}", "-x", language, level, f"-I{SHARED}", "-c", str(NATIVE / "alone.c")]
    compile_strictly(compiler, *flags, "-o", str(tmp_path / "alone.o"))


def test_every_function_of_the_header_is_among_those_compiled_alone() -> None:
    functions = re.findall(r"^static inline [\w ]+?\**(zbuf_\w+)\(", HEADER, re.MULTILINE)
    assert len(functions) >= 20
    assert sorted(re.findall(r"\(function\)(zbuf_\w+)", (NATIVE / "alone.c").read_text())) == sorted(functions)


# ---- sizes and offsets ----------------------------------------------------------------------------------------------

COUNTS = ["received", "filtered", "accepted", "delivered", "dropped", "abandoned", "buffered"]
LEDGER = [*COUNTS, "truncated", *(f"{name}_bytes" for name in COUNTS)]

STRUCTURES = {
    "zbuf_ledger": (128, {name: 8 * at for at, name in enumerate(LEDGER)}),
    "zbuf_segment": (
        384,
        {
            "magic": 0,
            "abi": 8,
            "state": 12,
            "epoch": 16,
            "segment_bytes": 24,
            "prologue_offset": 32,
            "prologue_bytes": 40,
            "zbuf_offset": 48,
            "zbuf_bytes": 64,
            "prologue_room": 72,
            "end_sequence": 80,
            "snaplen": 88,
            "ledger_sequence": 92,
            "reserved": 96,
            "ledger": 128,
            "producer": 256,
            "descriptor": 320,
        },
    ),
    "zbuf_header": (
        128,
        {
            "kernel_gen": 0,
            "kernel_len": 4,
            "user_gen": 8,
            "packets": 12,
            "interfaces": 16,
            "wire_bytes": 24,
            "sequence": 32,  # bpf(4)'s struct bpf_zbuf_header ends here
            "first_ns": 40,
            "last_ns": 48,
            "dropped_before": 56,
            "store_len": 64,  # a cache line of its own
        },
    ),
    "zbuf_ack": (64, {"user_gen": 0, "sleeping": 8, "passed_gen": 12}),
}
NUMBERS = {"ZBUF_ABI": 2, "ZBUF_PAGE_BYTES": 4096, "ZBUF_MAX_BYTES": 2**30, "ZBUF_MAX_CAPLEN": 262144}


def documented_layout() -> dict[str, int]:
    """The table above in the form that native/layout.c prints."""
    lines = dict(NUMBERS)
    for structure, (size, offsets) in STRUCTURES.items():
        lines[structure] = size
        lines |= {f"{structure}.{field}": offset for field, offset in offsets.items()}
    return lines


def printed_layout(program: Path) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split() for line in run(program).stdout.splitlines())}


def test_structures_have_the_documented_sizes_and_offsets(build: Build) -> None:
    assert printed_layout(build("layout.c")) == documented_layout()


def test_structures_are_the_same_in_cxx(tmp_path: Path) -> None:
    program = tmp_path / "program"
    flags = ["-std=c++11", "-x", "c++", f"-I{SHARED}", str(NATIVE / "layout.c")]
    compile_strictly("g++", *flags, "-o", str(program))
    assert printed_layout(program) == documented_layout()


def test_python_has_the_numbers_of_the_header() -> None:
    numbers = (layout.ABI, layout.PAGE_BYTES, layout.MAX_BUFFER_BYTES, layout.MAX_CAPLEN)
    assert numbers == tuple(NUMBERS.values())
    assert (layout.ACK_BYTES, layout.HEADER_BYTES) == (4096, 128)


# ---- two threads, one mapping ---------------------------------------------------------------------------------------

PACKETS_PER_BUFFER_AT_LEAST = 2
# gcc warns that ThreadSanitizer does not see atomic_thread_fence: native/handover.c says what follows from it.
THREAD_SANITIZER = ("-O1", "-g", "-pthread", "-fsanitize=thread", "-Wno-tsan")


def handed_over(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "handovers"),
    [(("-O3", "-pthread"), 2_000_000), (THREAD_SANITIZER, 1_000_000)],
    ids=["optimized", "thread-sanitizer"],
)
def test_busy_reader_gets_every_packet_whole_and_in_order(build: Build, flags: Sequence[str], handovers: int) -> None:
    counts = handed_over(run(build("handover.c", *flags), handovers, 1000))
    assert counts["packets"] >= PACKETS_PER_BUFFER_AT_LEAST * handovers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "handovers"),
    [(("-O3", "-pthread"), 500_000), (THREAD_SANITIZER, 200_000)],
    ids=["optimized", "thread-sanitizer"],
)
def test_reader_that_always_sleeps_is_always_woken(build: Build, flags: Sequence[str], handovers: int) -> None:
    counts = handed_over(run(build("handover.c", *flags), handovers, 0))
    assert counts["packets"] >= PACKETS_PER_BUFFER_AT_LEAST * handovers
    assert counts["sleeps"] > 0
    assert counts["bells"] > 0


def with_relaxed(function: str) -> str:
    """The header with the one order in `function` taken away."""
    begins = HEADER.index("\n{", HEADER.index(f" {function}(", HEADER.index("Atomic operations")))
    ends = HEADER.index("\n}", begins)
    body, replaced = re.subn("__ATOMIC_(RELEASE|ACQUIRE)", "__ATOMIC_RELAXED", HEADER[begins:ends])
    assert replaced == 1
    return HEADER[:begins] + body + HEADER[ends:]


@pytest.mark.parametrize(
    "function",
    [
        "zbuf_assign",
        "zbuf_assigned",
        "zbuf_acknowledge",
        "zbuf_acknowledged",
        "zbuf_store",
        "zbuf_stored",
        "zbuf_set_state",
        "zbuf_state",
    ],
)
def test_thread_sanitizer_misses_each_order_that_is_taken_away(build: Build, function: str) -> None:
    done = run(build("handover.c", *THREAD_SANITIZER, header=with_relaxed(function)), 4000, 1000)
    assert "ThreadSanitizer: data race" in done.stderr


# ---- bytes that no honest producer writes ---------------------------------------------------------------------------

ADDRESS_SANITIZER = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.mark.slow
def test_reader_stays_inside_the_buffer_whatever_the_bytes_say(build: Build) -> None:
    program = build("hostile.c", *ADDRESS_SANITIZER)
    for seed in range(4):
        done = run(program, seed, 5000)
        assert done.returncode == 0, f"seed {seed}: {done.stderr}"
        read, refused = map(int, re.findall(r"\d+", done.stdout))
        assert min(read, refused) > 100_000, "one-sided: the bytes are not hostile enough, or too much so"


@pytest.mark.parametrize(
    ("check", "weakened"),
    [
        ("offset > length_bytes || ", ""),
        (" || room < ZBUF_BLOCK_BYTES", ""),
        ("type == ZBUF_EPB_TYPE", "1"),
        ("total > room || ", ""),
        ("total % 4 || ", ""),
        ("total < ZBUF_BLOCK_BYTES", "total < 4"),
        ("total < ZBUF_EPB_BYTES", "0"),
        ("caplen > ZBUF_MAX_CAPLEN || ", ""),
        (" || total < bare", ""),
        ("packet->data = NULL;", ""),
        ("padded > length_bytes - at - 4", "padded > length_bytes - at"),
        ("(head & 0xffffu) == 0 || ", ""),
        ("padded = zbuf_pad(head >> 16)", "padded = head >> 16"),
        ("total - bare, packet)", "total - bare + 4, packet)"),
    ],
)
def test_hostile_bytes_find_each_check_that_is_taken_away(build: Build, check: str, weakened: str) -> None:
    assert HEADER.count(check) == 1
    done = run(build("hostile.c", *ADDRESS_SANITIZER, header=HEADER.replace(check, weakened)), 1, 5000)
    assert "AddressSanitizer" in done.stderr or "broken promise" in done.stderr


# ---- other programs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A packet as native/roundtrip.c writes it; the formulas are those of its packet_of()."""

    time_ns: int
    interface: int
    direction: int
    dropped: int
    wirelen: int
    data: bytes
    options: dict[int, bytes]


def written_packets() -> Iterator[Written]:
    sizes = [*range(71), 127, 128, 129, 1499, 1500, 1501, 1514, 9001, 65535, 65536, 262143, 262144]
    directions, dropped = (0, 1, 0, 2, 1, 0, 1, 2), (0, 0, 1, 0x100000002, 7, 2**64 - 1, 0, 3)
    options: list[dict[int, bytes]] = [{}] * 6 + [{1: b"remark"}, {1: b"remark", 2: struct.pack("<I", 0x01000002)}]
    for number in range(len(sizes) * 8):
        caplen, choice = sizes[number // 8], number % 8
        first = number * 31 % 256
        data = bytes(range(first, 256)) + bytes(range(256)) * (caplen // 256 + 1)
        time_ns = 1700000000123456789 + number * 1000000007
        wirelen = caplen + number % 3
        direction, lost, more = directions[choice], dropped[choice], options[choice]
        yield Written(time_ns, number % 2, direction, lost, wirelen, data[:caplen], more)


@pytest.fixture(scope="module")
def capture_file(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prologue and blocks, one after the other."""
    path = tmp_path_factory.mktemp("capture") / "roundtrip.pcapng"
    done = subprocess.run([build("roundtrip.c", "-O2")], capture_output=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    path.write_bytes(prologue([Interface("a", 1), Interface("b", 1)], 262144, "roundtrip") + done.stdout)
    return path


def blocks_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each pcapng block of a file, as plainly as can be."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        yield kind, data[at + 8 : at + length - 4]
        at += length


def options_of(data: bytes) -> dict[int, bytes]:
    options, at = {}, 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        at += 4
        if code == 0:
            break
        options[code] = data[at : at + length]
        at += (length + 3) // 4 * 4
    assert at == len(data)
    return options


def block_of(packet: Written) -> tuple[int, bytes, dict[int, bytes]]:
    """(type, body without options, options) of a packet's block, as the pcapng draft has it."""
    time_ns = packet.time_ns
    words = [packet.interface, time_ns >> 32, time_ns % 2**32, len(packet.data), packet.wirelen]
    options = {}
    if packet.direction:
        options[2] = struct.pack("<I", packet.direction)
    if packet.dropped:
        options[4] = struct.pack("<Q", packet.dropped)
    return 6, struct.pack("<5I", *words) + packet.data + bytes(-len(packet.data) % 4), options | packet.options


def test_what_is_written_is_read_back_and_is_pcapng_to_the_byte(capture_file: Path) -> None:
    blocks = [(kind, body) for kind, body in blocks_of(capture_file) if kind == 6]
    packets = list(written_packets())
    assert len(blocks) == len(packets)
    for (kind, body), packet in zip(blocks, packets, strict=True):
        bare = 20 + (len(packet.data) + 3) // 4 * 4
        assert (kind, body[:bare], options_of(body[bare:])) == block_of(packet)


def test_scapy_reads_what_is_written(capture_file: Path) -> None:
    from scapy.data import MTU
    from scapy.utils import RawPcapNgReader

    records: Any = RawPcapNgReader(str(capture_file))
    with records as reader:
        for (data, metadata), packet in zip(reader, written_packets(), strict=True):
            assert data == packet.data[:MTU]  # it cuts what is longer
            assert metadata.tshigh << 32 | metadata.tslow == packet.time_ns
            assert (metadata.tsresol, metadata.linktype, metadata.wirelen) == (10**9, 1, packet.wirelen)
            assert (metadata.ifname, metadata.direction or 0) == (b"ab"[packet.interface :][:1], packet.direction)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="tcpdump is not installed")
def test_tcpdump_reads_what_is_written(capture_file: Path) -> None:
    command = ["tcpdump", "--time-stamp-precision=nano", "-r", "-", "-w", "-"]  # pipes: as root it gives up its rights
    done = subprocess.run(command, input=capture_file.read_bytes(), capture_output=True, timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stderr
    assert list(packets_of_pcap(done.stdout)) == [
        (packet.time_ns, packet.wirelen, packet.data) for packet in written_packets()
    ]


def packets_of_pcap(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(time, length on the wire, bytes) of each packet of an old-style capture file in nanoseconds."""
    assert struct.unpack_from("<I", data) == (0xA1B23C4D,)
    at = 24
    while at < len(data):
        seconds, nanoseconds, caplen, wirelen = struct.unpack_from("<4I", data, at)
        yield seconds * 10**9 + nanoseconds, wirelen, data[at + 16 : at + 16 + caplen]
        at += 16 + caplen
