"""What sources, the pump and descriptors are to each other: batches of packets, passed without the GIL."""

class NativeSource:
    """Where packets come from, in batches."""

    def check(self) -> None: ...

class PacketSink:
    """Who takes packets."""

class Rewriter:
    """Who changes packets on every pass but the first."""
