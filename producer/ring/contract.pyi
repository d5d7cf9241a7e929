"""What the pump asks of sources and of descriptors: a few calls, without the GIL, for batches of packets."""

class NativeSource:
    """Where packets come from, in batches."""

    def check(self) -> None: ...

class PacketSink:
    """What takes packets: a descriptor."""

class Rewriter:
    """What changes packets on every pass after the first."""
