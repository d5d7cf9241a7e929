"""What a descriptor must do, in lists and sets: nothing here is fast, shared, or taken from the product.

A filling is a run of packets that its readers get as one buffer.  There is room for two at a time: those with the
readers, oldest first, and the one being filled, if fewer than two are with the readers.  Fillings come back in turn.
"""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Filter = Callable[[bytes, int], int]
"""Takes a packet's bytes and its length on the wire; returns how many bytes to keep, 0 to refuse the packet."""


@dataclass(frozen=True)
class ModelPacket:
    """A packet as a reader gets it."""

    data: bytes
    wirelen: int
    time_ns: int
    interface: int
    direction: int
    dropped: int

    def block(self) -> bytes:
        """Its Enhanced Packet Block, by section 4.3 of draft-ietf-opsawg-pcapng."""
        options = b""
        if self.direction:
            options += struct.pack("<HHI", 2, 4, self.direction)  # epb_flags
        if self.dropped:
            options += struct.pack("<HHQ", 4, 8, self.dropped)  # epb_dropcount
        if options:
            options += bytes(4)  # opt_endofopt
        when = divmod(self.time_ns, 2**32)
        fixed = struct.pack("<5I", self.interface, *when, len(self.data), self.wirelen)
        body = fixed + self.data + bytes(-len(self.data) % 4) + options
        total = struct.pack("<I", len(body) + 12)
        return struct.pack("<I", 6) + total + body + total


@dataclass
class Filling:
    """A run of packets, and which readers have it."""

    number: int
    packets: list[ModelPacket] = field(default_factory=list)
    owed_by: set[int] = field(default_factory=set)
    acknowledged: bool = False
    """Whether any reader has acknowledged it."""
    seen_ns: int | None = None
    """The time at which a tick first saw packets in it."""

    @property
    def buffer(self) -> int:
        return self.number % 2

    @property
    def blocks(self) -> bytes:
        return b"".join(packet.block() for packet in self.packets)


@dataclass
class ModelReader:
    """One reader: what it has still to take, and how many packets it has acknowledged."""

    due: list[Filling] = field(default_factory=list)
    delivered: int = 0


@dataclass
class TwoBufferModel:
    """One descriptor, with the same settings as a Descriptor."""

    capacity: int
    snaplen: int
    immediate: bool
    timeout_ns: int
    direction: int

    def __post_init__(self) -> None:
        self.assigned: list[Filling] = []
        self.filling: Filling | None = Filling(0)
        self.fillings = 1  # how many were begun
        self.readers: dict[int, ModelReader] = {}
        self.filter: Filter | None = None
        self.lost = 0
        self.finished = False
        names = ("received", "filtered", "accepted", "delivered", "dropped", "abandoned")
        self.counts = dict.fromkeys((*names, "truncated", *(f"{name}_bytes" for name in names)), 0)

    # ---- what it says of itself ---------------------------------------------------------------------------

    def ledger(self) -> dict[str, int]:
        self.settle()
        return self.counts | {"buffered": len(self.buffered()), "buffered_bytes": wire_bytes(self.buffered())}

    def buffered(self) -> list[ModelPacket]:
        there = [*self.assigned, *([self.filling] if self.filling else [])]
        return [packet for filling in there for packet in filling.packets]

    def count(self, name: str, packets: int, octets: int) -> None:
        self.counts[name] += packets
        self.counts[f"{name}_bytes"] += octets

    def next_sequence(self) -> int:
        return self.filling.number if self.filling else self.fillings

    def owed(self, reader: int) -> int:
        return sum(reader in filling.owed_by for filling in self.assigned)

    # ---- what happens to it -------------------------------------------------------------------------------

    def settle(self) -> None:
        """Take back fillings that all readers have acknowledged, in order."""
        while self.assigned and not self.assigned[0].owed_by:
            back = self.assigned.pop(0)
            self.count("delivered" if back.acknowledged else "abandoned", len(back.packets), wire_bytes(back.packets))
            self.begin()

    def begin(self) -> None:
        """Begin a filling if there is none, and if there is room."""
        if self.filling is None and len(self.assigned) < 2:
            self.filling = Filling(self.fillings)
            self.fillings += 1

    def assign(self) -> None:
        """Give the filling to the connected readers."""
        assert self.filling is not None
        given, self.filling = self.filling, None
        given.owed_by = set(self.readers)
        for reader in self.readers.values():
            reader.due.append(given)
        self.assigned.append(given)
        self.begin()

    def rotate(self) -> bool:
        """Assign the filling if it has packets and there is room for another."""
        self.settle()
        if self.assigned or not self.filling or not self.filling.packets:
            return False
        self.assign()
        return True

    def append(self, data: bytes, wirelen: int, time_ns: int, interface: int, direction: int) -> None:
        if self.finished or (self.direction and direction and direction != self.direction):
            return
        self.count("received", 1, wirelen)
        wanted = self.filter(data, wirelen) if self.filter else len(data)
        if self.filter and not wanted:
            self.count("filtered", 1, wirelen)
            return
        self.count("accepted", 1, wirelen)
        empty = ModelPacket(b"", wirelen, time_ns, interface, direction, self.lost)
        room = self.capacity - len(empty.block())
        kept = data[: min(wanted, self.snaplen, room)]
        packet = ModelPacket(kept, wirelen, time_ns, interface, direction, self.lost)
        if not self.place(packet):
            self.count("dropped", 1, wirelen)
            self.lost += 1
            return
        self.lost = 0
        self.counts["truncated"] += len(kept) < len(data)
        if self.immediate:
            self.rotate()

    def place(self, packet: ModelPacket) -> bool:
        """Put a packet into the filling, or a new one; returns False if there is no room."""
        self.settle()
        if self.filling and len(self.filling.blocks) + len(packet.block()) > self.capacity:
            self.assign()
        if self.filling:
            self.filling.packets.append(packet)
        return self.filling is not None

    def tick(self, now_ns: int) -> None:
        if self.immediate:
            self.rotate()
        self.settle()
        if not self.timeout_ns or not self.filling or not self.filling.packets:
            return
        if self.filling.seen_ns is None:
            self.filling.seen_ns = now_ns
        elif now_ns - self.filling.seen_ns >= self.timeout_ns:
            self.rotate()

    def flush(self) -> None:
        self.settle()
        if self.filling:
            self.filling = Filling(self.filling.number)
        self.counts = dict.fromkeys(self.counts, 0)
        for name in ("received", "accepted"):
            self.count(name, len(self.buffered()), wire_bytes(self.buffered()))
        self.lost = 0

    def finish(self) -> None:
        if self.finished:
            return
        self.finished = True
        self.settle()
        if self.filling and self.filling.packets:
            self.assign()

    # ---- readers ------------------------------------------------------------------------------------------

    def join(self, reader: int) -> int:
        self.readers[reader] = ModelReader()
        return self.next_sequence()

    def acknowledge(self, reader: int, filling: Filling) -> None:
        filling.owed_by.remove(reader)
        filling.acknowledged = True
        self.readers[reader].delivered += len(filling.packets)

    def leave(self, reader: int) -> int:
        for filling in self.assigned:
            filling.owed_by.discard(reader)
        self.settle()
        return self.readers.pop(reader).delivered


def wire_bytes(packets: Iterable[ModelPacket]) -> int:
    return sum(packet.wirelen for packet in packets)
