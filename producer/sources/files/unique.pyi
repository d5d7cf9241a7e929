"""Other IP addresses on each pass over a capture, so that what is replayed again is other flows, not the same ones."""

from typing import final

from zbuf.producer.ring.contract import Rewriter

LINKTYPES: frozenset[int]

@final
class UniqueAddresses(Rewriter):
    """Gives the packets of each pass but the first IPv4 and IPv6 addresses of its own."""

    def __init__(self, linktype: int) -> None: ...
    def rewritten(self, packet: bytes, number: int) -> bytes: ...
