"""An alert for each millisecond with more than LIMIT packets: python examples/bursts.py NAME LIMIT"""

import sys

import numpy

from zbuf import connect

limit, last, count = int(sys.argv[2]), 0, 0
with connect(sys.argv[1], snaplen=1) as reader:
    for packet in reader:
        millisecond = packet.time_ns // 1_000_000
        last, count = millisecond, count + 1 if millisecond == last else 1
        if count == limit + 1:
            print(f"{numpy.datetime64(millisecond, 'ms')}: more than {limit} packets", flush=True)
