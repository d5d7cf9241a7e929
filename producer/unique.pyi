"""Other IP addresses on each pass over a capture, so that what is replayed again is other flows, not the same ones."""

LINKTYPES: frozenset[int]

class UniqueAddresses:
    """Gives the packets of each pass but the first IPv4 and IPv6 addresses of its own."""

    def __init__(self, linktype: int) -> None: ...
    def capsule(self) -> object: ...
    def rewrite(self, packet: bytes, number: int) -> bytes: ...
