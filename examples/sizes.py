"""Print a histogram of packet sizes, by one NumPy expression a buffer: python examples/sizes.py NAME"""

import sys

import numpy

from zbuf import connect

edges = numpy.array([0, 64, 128, 256, 512, 1024, 1519, 1 << 32])
counts = numpy.zeros(len(edges) - 1, int)
with connect(sys.argv[1]) as reader:
    for buffer in reader.buffers():
        counts += numpy.histogram(buffer.index()["wirelen"], edges)[0]
for low, high, count in zip(edges, edges[1:], counts, strict=False):
    print(f"{low:>5} to {high - 1 if high < 1 << 32 else 'more':>5} bytes: {count}")
