"""Write the packets that match a filter to a pcapng file: python examples/matching.py NAME OUT.pcapng FILTER...

A buffer holds pcapng blocks as a file has them: one write() each, and no packet is looked at.
"""

import sys
from pathlib import Path

from zbuf import connect

name, out, *words = sys.argv[1:]
with connect(name, filter=" ".join(words) or None) as reader, Path(out).open("wb") as file:
    file.write(reader.prologue)
    packets = 0
    for buffer in reader.buffers():
        file.write(buffer.data)
        packets += len(buffer)
print(f"{packets} packets written to {out}")
