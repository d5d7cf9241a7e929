"""What the ring costs its producer.

Timed: the pump, from the first packet to the last acknowledgement, while a reader in another process walks every
block's header (Buffer.totals(), which checks each block) and gives the buffers back. Everything is as in any capture:
Producer and connect(), buffers of 2 MiB, default waits. It is lossless, so both contestants handle the same packets.

Against: the same pump, packet store and descriptor, appending the same packets, in one process into private memory. No
reader is there, so a buffer is free again as soon as it is full: this is the same loop without the sharing. The ratio
is the share of the pump's speed that is left when the packets are shared with another processor.

Beside it is the speed that no copy can exceed: memcpy() in one process, see bench.memory. That ratio counts the bytes
of packets, and not of their blocks.
"""

import mmap
import os
import tempfile
import time
from pathlib import Path

from bench import memory, pipeline
from bench.captures import Capture, one_size
from bench.measure import Peer, Row, Session
from bench.pipeline import Times, packets_per_second
from bench.stage import Stage
from zbuf.consumer.reading.reader import Reader
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.ring.pump import Pump
from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.store import PacketStore
from zbuf.shared.memory.layout import DEFAULT_BUFFER_BYTES

_TARGETS = {64: 0.8, 512: 0.8, 1514: 0.9}
_BYTES = 32 << 30
_MOST_PACKETS = 60_000_000
_PAGE = mmap.PAGESIZE


def measure(session: Session) -> list[Row]:
    """A row for each packet size."""
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        rows = [_measure_size(session, Path(directory), size, target) for size, target in _TARGETS.items()]
    return [row for of_size in rows for row in of_size]


def _measure_size(session: Session, directory: Path, size: int, target: float) -> list[Row]:
    capture = one_size(directory, size)
    loops = capture.loops(session.scaled(min(_MOST_PACKETS, _BYTES // size)))
    alone = Peer("private memory", lambda: _alone(capture, loops), target)
    copied = Peer("memcpy", lambda: memory.bytes_per_second(session) / size, packet_bytes=size)
    return session.compete(f"ring, {size} bytes", lambda: _shared(capture, loops), [alone, copied])


def _shared(capture: Capture, loops: int) -> float:
    produced, _ = pipeline.run(capture, loops, walk)
    return packets_per_second(produced)


def _alone(capture: Capture, loops: int) -> float:
    with Stage() as stage:
        return packets_per_second(stage.call(append_alone, file=capture.path, loops=loops).result())


def walk(name: str, run_dir: str) -> Times:
    """Be the reader, which walks every header."""
    return pipeline.read(name, run_dir, _walk_all)


def walk_joined(name: str, run_dir: str) -> Times:
    """Be a reader that shares one descriptor with all the others."""
    return pipeline.read(name, run_dir, _walk_all, join="all")


def _walk_all(reader: Reader) -> int:
    return sum(buffer.totals()[0] for buffer in reader.buffers())


def append_alone(file: str, loops: int) -> Times:
    """Be the peer: the append loop on private memory, which is all there before the first packet, as a segment's is."""
    memory = mmap.mmap(-1, _PAGE + 2 * DEFAULT_BUFFER_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
    descriptor, store, pump = Descriptor(), PacketStore(), Pump(lossless=True)
    descriptor.set_buffers(memory, _PAGE, _PAGE + DEFAULT_BUFFER_BYTES, DEFAULT_BUFFER_BYTES)
    store.load(CaptureFile(os.open(file, os.O_RDONLY), file), 2**63)
    store.rewind(loops)
    pump.attach(descriptor)
    began = time.monotonic()
    while not pump.run(store):
        pass
    return {"packets": pump.offered, "began": began, "ended": time.monotonic()}
