"""Reading capture files of a gigabyte: packets per second, from pcap, from pcapng, and from what zstd has packed.

preload: a FileSource takes a file into memory, as zbufd does before it replays one. stream: a FileSource that keeps
nothing reads it to a pump. Against: libpcap's pcap_loop() in C over the same file, see bench.index. Each run is a
process of its own. The clock begins when the program is loaded, before the file is opened. The file is in the page
cache, where each contestant finds it.

zstd: a packed file is streamed to one reader in another process, which takes whole buffers. Against: `zstd -dc |
tcpdump -r - -w /dev/null`. The clock begins when the file is opened and the reader is connected, and tcpdump's with its
start.
"""

import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import pipeline
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.native import compile_program
from bench.pipeline import Times, packets_per_second
from bench.stage import TIMEOUT_S, BenchError, Stage
from zbuf.consumer.reading.reader import Reader
from zbuf.producer.ring.pump import Pump
from zbuf.producer.sources.files.file_source import FileSource

_FILE_BYTES = 1 << 30
_PCAP_TARGET = 1.5
_ZSTD_TARGET = 1.0
_PCAP_HEADER_BYTES = 24
_NO_LIMIT = 1 << 62

_SECTION = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
_INTERFACE = struct.pack("<IIHHII", 1, 20, 1, 0, 262144, 20)


def measure_preload(session: Session) -> list[Row]:
    """A row for each format."""
    return _against_pcap_loop(session, "preload", preload)


def measure_stream(session: Session) -> list[Row]:
    """A row for each format."""
    return _against_pcap_loop(session, "stream", stream)


def measure_zstd(session: Session) -> list[Row]:
    """One row."""
    missing = next((f"needs {program}" for program in ("zstd", "tcpdump") if shutil.which(program) is None), "")
    if missing:
        return [Row("zstd", peer=missing)]
    with _large_file(session, "pcap") as (path, packets):
        packed = Path(f"{path}.zst")
        subprocess.run(["zstd", "-q", "-1", path, "-o", packed], check=True)
        peer = Peer("zstd -dc | tcpdump", lambda: _tcpdump(packed, packets), _ZSTD_TARGET)
        return session.compete("zstd to one reader", lambda: _to_one_reader(packed, packets), [peer])


def _against_pcap_loop(session: Session, name: str, read: Callable[[str], Times]) -> list[Row]:
    return [row for form in _PARTS for row in _one_form(session, name, read, form)]


def _one_form(session: Session, name: str, read: Callable[[str], Times], form: str) -> list[Row]:
    with _large_file(session, form) as (path, packets):
        program, missing = Path(), ""
        try:
            program = compile_program("pcap_loop", path.parent, "-lpcap")
        except BenchError as error:
            missing = str(error)
        peer = Peer("pcap_loop in C", lambda: _pcap_loop(program, path, packets), _PCAP_TARGET, missing)
        return session.compete(f"{name} {form}", lambda: _zbuf(read, path, packets), [peer])


# ---- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _large_file(session: Session, form: str) -> Iterator[tuple[Path, int]]:
    """A file of about a gigabyte with the packets of the session's capture again and again, and how many they are."""
    head, packets = _PARTS[form](session.capture)
    times = max(1, _FILE_BYTES // session.shorten // len(packets))
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        path = Path(directory, f"large.{form}")
        with path.open("wb") as file:
            file.write(head)
            for _ in range(times):
                file.write(packets)
        yield path, times * session.capture.packets


def _pcap_parts(capture: Capture) -> tuple[bytes, bytes]:
    content = Path(capture.path).read_bytes()
    if struct.unpack_from("<I", content)[0] != 0xA1B2C3D4:
        raise BenchError(f"{capture.path}: to be repeated it must be a little-endian pcap file with microseconds")
    return content[:_PCAP_HEADER_BYTES], content[_PCAP_HEADER_BYTES:]


def _pcapng_parts(capture: Capture) -> tuple[bytes, bytes]:
    _, records = _pcap_parts(capture)
    return _SECTION + _INTERFACE, b"".join(_blocks(records))


def _blocks(records: bytes) -> Iterator[bytes]:
    """Enhanced Packet Blocks with the packets of a pcap file."""
    at = 0
    while at < len(records):
        seconds, microseconds, caplen, wirelen = struct.unpack_from("<4I", records, at)
        data, time_us = records[at + 16 : at + 16 + caplen], seconds * 1_000_000 + microseconds
        total = 32 + caplen + -caplen % 4
        yield struct.pack("<7I", 6, total, 0, time_us >> 32, time_us & 0xFFFFFFFF, caplen, wirelen)
        yield data + bytes(-caplen % 4) + struct.pack("<I", total)
        at += 16 + caplen


_PARTS = {"pcap": _pcap_parts, "pcapng": _pcapng_parts}


# ---- contestants ----------------------------------------------------------------------------------------------------


def _zbuf(read: Callable[[str], Times], path: Path, packets: int) -> float:
    with Stage() as stage:
        times = stage.call(read, file=str(path)).result()
    return _rate(times, packets)


def preload(file: str) -> Times:
    """Take a file into memory."""
    began = time.monotonic()
    source = FileSource([file], _NO_LIMIT)
    return {"packets": source.sizes.packets, "began": began, "ended": time.monotonic()}


def stream(file: str) -> Times:
    """Read a file to a pump without descriptors."""
    pump, began = Pump(), time.monotonic()
    for one in FileSource([file], 0).passes(1):
        while not pump.run(one):
            pass
    return {"packets": pump.offered, "began": began, "ended": time.monotonic()}


def _pcap_loop(program: Path, path: Path, packets: int) -> float:
    with Stage() as stage:
        counted, seconds = stage.start([program, path, "1"]).output().split()
    return _rate({"packets": int(counted), "began": 0.0, "ended": float(seconds)}, packets)


def _rate(times: Times, packets: int) -> float:
    if times["packets"] != packets:
        raise BenchError(f"{times['packets']:.0f} packets were read of {packets}")
    return packets_per_second(times)


def _to_one_reader(packed: Path, packets: int) -> float:
    with Stage() as stage:
        reading = stage.call(take_buffers, **stage.place)
        streaming = stage.call(pipeline.replay, **stage.place, file=str(packed), loops=1, preload_limit_bytes=0)
        produced, taken = streaming.result(), reading.result()
    if taken["packets"] != packets:
        raise BenchError(f"{taken['packets']:.0f} packets were read of {packets}")
    return packets_per_second(produced, taken)


def take_buffers(name: str, run_dir: str) -> Times:
    """Be the reader."""
    return pipeline.read(name, run_dir, _count_buffers)


def _count_buffers(reader: Reader) -> int:
    return sum(buffer.packets for buffer in reader.buffers())


def _tcpdump(packed: Path, packets: int) -> float:
    began = time.monotonic()
    with subprocess.Popen(["zstd", "-dc", packed], stdout=subprocess.PIPE) as unpacking:
        command = ["tcpdump", "-r", "-", "-w", "/dev/null"]
        done = subprocess.run(command, stdin=unpacking.stdout, capture_output=True, check=False, timeout=TIMEOUT_S)
    seconds = time.monotonic() - began
    if done.returncode or unpacking.returncode:
        sys.stderr.write(done.stderr.decode(errors="replace"))
        raise BenchError("zstd -dc | tcpdump failed")
    return packets / seconds
