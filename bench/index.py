"""Whole buffers at a time.

Timed: Buffer.index() of every buffer, from the first packet that the producer offers to the last index made: end to
end, two processes, the file in the producer's memory. Each index is a NumPy array with the place, both lengths, the
interface and the time of every packet.

Against: libpcap itself, in C: pcap_open_offline() and pcap_loop() over the same file, with a callback that counts and
does nothing else. It is compiled with cc -O2, linked with the libpcap that zbuf is linked with, and reads the file from
the page cache, again and again. Opening the file, some microseconds of each pass, is part of its time. It keeps
libpcap's default of microseconds, in which the capture is written, so that it has no timestamps to convert.
"""

import tempfile
from pathlib import Path

from bench import pipeline
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.native import compile_program
from bench.pipeline import Times, packets_per_second
from bench.stage import BenchError, Stage
from zbuf.consumer.client import Reader

_PACKETS = 12_000_000
_PEER_PACKETS = 4_000_000


def measure(session: Session) -> list[Row]:
    """The one row."""
    capture = session.capture
    loops = capture.loops(session.scaled(_PACKETS))
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        peer = _peer(Path(directory), capture, capture.loops(session.scaled(_PEER_PACKETS)))
        return session.compete("buffer.index()", lambda: _zbuf(capture, loops), [peer])


def _peer(directory: Path, capture: Capture, loops: int) -> Peer:
    program, missing = Path(), ""
    try:
        program = compile_program("pcap_loop", directory, "-lpcap")
    except BenchError as error:
        missing = str(error)
    return Peer("pcap_loop in C", lambda: _pcap_loop(program, capture, loops), 3.0, missing)


def _zbuf(capture: Capture, loops: int) -> float:
    return packets_per_second(*pipeline.run(capture, loops, index))


def _pcap_loop(program: Path, capture: Capture, loops: int) -> float:
    with Stage() as stage:
        packets, seconds = stage.start([program, capture.path, str(loops)]).output().split()
    if int(packets) != capture.packets * loops:
        raise BenchError(f"pcap_loop counted {packets} packets of {capture.packets * loops}")
    return int(packets) / float(seconds)


def index(name: str, run_dir: str) -> Times:
    """The reader."""
    return pipeline.read(name, run_dir, _index_all)


def _index_all(reader: Reader) -> int:
    return sum(len(buffer.index()) for buffer in reader.buffers())
