"""How fast this machine copies memory, which is the speed limit of all that hands over a copy.

The C library's memcpy() copies in one process from 16 MiB to two buffers of 2 MiB in turn, 2 MiB at a time. A replay of
a preloaded capture touches the same memory; here there are no packets in it, and nobody reads it.
"""

import mmap
import time
from collections.abc import Mapping

from bench.measure import Session
from bench.stage import Stage

_BYTES = 16 << 30
_SOURCE_BYTES = 16 << 20
_CHUNK_BYTES = 2 << 20


def bytes_per_second(session: Session) -> float:
    """One run, in a process of its own."""
    with Stage() as stage:
        return stage.call(copy, total_bytes=session.scaled(_BYTES)).result()["bytes_per_second"]


def copy(total_bytes: int) -> Mapping[str, float]:
    """Copy so many bytes, or a few less."""
    source, target = _memory(_SOURCE_BYTES), _memory(2 * _CHUNK_BYTES)
    chunks = [source[at : at + _CHUNK_BYTES] for at in range(0, _SOURCE_BYTES, _CHUNK_BYTES)]
    halves = [target[:_CHUNK_BYTES], target[_CHUNK_BYTES:]]
    count = total_bytes // _CHUNK_BYTES
    began = time.monotonic()
    for number in range(count):
        halves[number % 2][:] = chunks[number % len(chunks)]
    return {"bytes_per_second": count * _CHUNK_BYTES / (time.monotonic() - began)}


def _memory(size: int) -> memoryview:
    """Memory that was written once: pages that were only read are all the same page of zeros."""
    memory = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    memory[:] = bytes([1]) * size
    return memory
