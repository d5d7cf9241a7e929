"""Give packets to a pool of processes, each with its own copy: python examples/workers.py FILE

That is for work that costs more than a copy does. To share packets with no copy, see fan_out.py.
"""

import hashlib
import multiprocessing
import sys

from zbuf import PacketCopy, connect


def digest(packet: PacketCopy) -> str:
    """The work on one packet."""
    return hashlib.sha256(packet.data).hexdigest()


def main(file: str) -> None:
    """Count how many packets there are, and how many different ones."""
    with multiprocessing.Pool(2) as pool, connect(file=file) as reader:
        found = list(pool.imap_unordered(digest, (packet.copy() for packet in reader), chunksize=200))
    print(f"{len(found)} packets, {len(set(found))} different ones")


if __name__ == "__main__":
    main(sys.argv[1])
