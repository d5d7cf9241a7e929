"""Print what comes in, every few seconds, until SIGTERM: python examples/rates.py NAME [SECONDS]"""

import signal
import sys
import time

from zbuf import Reader, ZbufError, connect


def count(reader: Reader, until: float) -> tuple[int, int, int]:
    """Count packets, their bytes on the wire, and lost packets, until a time.monotonic() or the stream's end."""
    packets = octets = lost = 0
    while not reader.finished and (left := until - time.monotonic()) > 0:
        if (buffer := reader.next_buffer(timeout=left)) is not None:
            found, _, wire = buffer.totals()
            packets, octets, lost = packets + found, octets + wire, lost + buffer.dropped_before
    return packets, octets, lost


def report(name: str, seconds: float) -> None:
    """Print a line every `seconds` until the producer ends."""
    with connect(name, snaplen=1) as reader:  # counting needs none of their bytes
        while not reader.finished:
            started = time.monotonic()
            packets, octets, lost = count(reader, started + seconds)
            rate = packets / (time.monotonic() - started)
            print(f"{packets} packets, {octets} bytes, {rate:.0f} packets/s, {lost} lost", flush=True)
        print(f"the producer {reader.end_reason}")


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    report(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5)
except ZbufError as error:
    sys.exit(f"rates: {error}")
