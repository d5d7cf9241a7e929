"""Classic pcap files: their header.

Source: draft-ietf-opsawg-pcap, section 4.
"""

import struct

_NANOSECONDS = 0xA1B23C4D
_VERSION = (2, 4)


def pcap_header(linktype: int, snaplen: int) -> bytes:
    """The header of a file whose stamps are in nanoseconds."""
    return struct.pack("<IHHiIII", _NANOSECONDS, *_VERSION, 0, 0, snaplen, linktype)
