"""A session in a notebook, cell by cell: open it in VS Code or Jupyter, or run python examples/notebook.py FILE"""

# %% All packets of a file, as one table: time, length, interface
import sys

import numpy

from zbuf import connect

with connect(file=sys.argv[1]) as reader:
    table = numpy.concatenate([batch.index for batch in reader.index_batches()])
print(len(table), "packets from", table["time"].min(), "to", table["time"].max())

# %% Packets in each millisecond: the busiest three
milliseconds, counts = numpy.unique(table["time"].astype("datetime64[ms]"), return_counts=True)
for busiest in numpy.argsort(counts)[::-1][:3]:
    print(milliseconds[busiest], counts[busiest], "packets")

# %% One packet, and some of its bytes
with connect(file=sys.argv[1], filter="arp") as reader:
    packet = next(iter(reader)).copy()  # a copy outlives the reader
print(packet, "EtherType", packet[12:14].hex())

# %% What became of every packet
with connect(file=sys.argv[1], filter="udp") as reader:
    taken = sum(len(buffer) for buffer in reader.buffers())
    print(taken, "taken,", reader.ledger().filtered, "filtered out")
