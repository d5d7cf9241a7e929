"""Classic pcap files: their header, and what they can't hold.

Source: draft-ietf-opsawg-pcap, section 4.
"""

import functools
import struct
import sys

from zbuf.consumer.reading.reader import Reader
from zbuf.shared.errors import ZbufError
from zbuf.shared.names import linktypes_of

_NANOSECONDS = 0xA1B23C4D
_VERSION = (2, 4)


def pcap_header(linktype: int, snaplen: int) -> bytes:
    """The header of a file whose stamps are in nanoseconds."""
    return struct.pack("<IHHiIII", _NANOSECONDS, *_VERSION, 0, 0, snaplen, linktype)


def check_one_linktype(reader: Reader) -> None:
    """Raise ZbufError if the reader's packets have several link types."""
    if len(set(reader.linktypes)) > 1:
        raise ZbufError(
            f"{reader.name} has packets of link types {linktypes_of(reader.linktypes)}, "
            "and a classic pcap file (-P) holds one: leave -P out, for pcapng"
        )


@functools.cache
def warn_of_late_times() -> None:
    """Say once that times are too late for 32 bits of seconds."""
    sys.stderr.write(
        "zbuf: packets after the year 2106 have the last time that classic pcap can tell: leave -P out, for pcapng\n"
    )
