"""Whole buffers at a time.

Timed: Buffer.index() of every buffer, from the first packet that the producer offers to the last index made. There are
two processes, and the file is in the producer's memory. Each index is a NumPy array with the place, both lengths, the
interface and the time of every packet.

Against: libpcap itself, in C: pcap_open_offline() and pcap_loop() over the same file, with a callback that counts and
does nothing else. It is compiled with cc -O2, linked with the libpcap that zbuf is linked with, and reads the file from
the page cache, again and again. Opening the file, some microseconds of each pass, is part of its time. It keeps
libpcap's default of microseconds, in which the capture is written, so that it has no timestamps to convert.

Against: pcapy-ng's loop_to_buffer(), its fastest function, with a walk over its records, which a program needs to find
a packet's place and length. For information, it also runs without the walk, and then gives only the number of packets.
"""

import tempfile
from pathlib import Path

from bench import pipeline, python_readers
from bench.captures import Capture
from bench.measure import Peer, Row, Session
from bench.native import compile_program
from bench.pipeline import Times, packets_per_second
from bench.stage import BenchError, Stage
from zbuf.consumer.reading.reader import Reader

_PACKETS = 48_000_000
_PEER_PACKETS = 8_000_000
_LIBPCAP_TARGET = 4.0
_PCAPY_TARGET = 8.0


def measure(session: Session) -> list[Row]:
    """A row for each peer."""
    capture = session.capture
    loops = capture.loops(session.scaled(_PACKETS))
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        peer_loops = capture.loops(session.scaled(_PEER_PACKETS))
        peers = [_libpcap(Path(directory), capture, peer_loops), *_pcapy(capture, peer_loops)]
        return session.compete("buffer.index()", lambda: _zbuf(capture, loops), peers)


def _pcapy(capture: Capture, loops: int) -> list[Peer]:
    why = python_readers.missing("pcapy")
    walked, counted = python_readers.with_pcapy_buffer, python_readers.with_pcapy_buffer_counted
    return [
        Peer("pcapy-ng loop_to_buffer", lambda: python_readers.rate(walked, capture, loops), _PCAPY_TARGET, why),
        Peer("pcapy-ng loop_to_buffer, no walk", lambda: python_readers.rate(counted, capture, loops), missing=why),
    ]


def _libpcap(directory: Path, capture: Capture, loops: int) -> Peer:
    program, missing = Path(), ""
    try:
        program = compile_program("pcap_loop", directory, "-lpcap")
    except BenchError as error:
        missing = str(error)
    return Peer("pcap_loop in C", lambda: _pcap_loop(program, capture, loops), _LIBPCAP_TARGET, missing)


def _zbuf(capture: Capture, loops: int) -> float:
    return packets_per_second(*pipeline.run(capture, loops, index))


def _pcap_loop(program: Path, capture: Capture, loops: int) -> float:
    with Stage() as stage:
        packets, seconds = stage.start([program, capture.path, str(loops)]).output().split()
    if int(packets) != capture.packets * loops:
        raise BenchError(f"pcap_loop counted {packets} packets of {capture.packets * loops}")
    return int(packets) / float(seconds)


def index(name: str, run_dir: str) -> Times:
    """Be the reader."""
    return pipeline.read(name, run_dir, _index_all)


def _index_all(reader: Reader) -> int:
    return sum(len(buffer.index()) for buffer in reader.buffers())
