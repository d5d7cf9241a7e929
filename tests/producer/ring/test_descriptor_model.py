"""The descriptor and a model of it, side by side through every order of events that hypothesis comes up with."""

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.rig import CAPACITY, ETHERNET, PlainReader, Rig, Taken, adds_up, read_ledger
from support.two_buffer_model import Filling, Filter, TwoBufferModel, wire_bytes

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.packets import DIRECTIONS

READERS_MAX = 3
_RETURN = 0x06  # the instruction "ret #k" of bpf(4)


def _odd_first_byte(data: bytes, _wirelen: int) -> int:
    return 262144 if data and data[0] & 1 else 0


def _short(_data: bytes, wirelen: int) -> int:
    return 262144 if wirelen <= 300 else 0


FILTERS: dict[str, tuple[bytes, Filter | None]] = {
    "everything": (b"", None),
    "odd": (compile_filter("ether[0] & 1 = 1", ETHERNET), _odd_first_byte),
    "short": (compile_filter("less 300", ETHERNET), _short),
    "forty bytes": (struct.pack("<HBBI", _RETURN, 0, 0, 40), lambda _data, _wirelen: 40),
    "nothing": (struct.pack("<HBBI", _RETURN, 0, 0, 0), lambda _data, _wirelen: 0),
}
SIZES = st.one_of(
    st.integers(0, 1500),
    st.sampled_from([0, 1, 64, 92, 1500, CAPACITY - 33, CAPACITY - 32, CAPACITY - 31, CAPACITY, 5000]),
)
READER_WORK = st.sampled_from(
    ["take", "take", "acknowledge", "acknowledge", "acknowledge_newest", "take_and_acknowledge_all"]
)
TIMES = st.one_of(st.integers(1, 2**40), st.sampled_from([0, 2**32 - 1, 2**32, 2**64 - 1]))


def _contents(number: int, size: int) -> bytes:
    """Bytes that no other packet of a machine has."""
    return (struct.pack("<I", number * 2654435761 % 2**32) * (size // 4 + 1))[:size]


def _cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(at)]


class DescriptorMachine(RuleBasedStateMachine):
    """Every rule is done to both; every invariant compares them."""

    @initialize(
        snaplen=st.sampled_from([262144, 262144, 1000, 61]),
        immediate=st.sampled_from([False, False, True]),
        timeout_ms=st.sampled_from([0, 7]),
        direction=st.sampled_from(["inout", "inout", "in", "out"]),
        curious=st.booleans(),
        readers=st.sampled_from([0, 1, 1, 2, 2, 3]),
    )
    def set_up(
        self, snaplen: int, immediate: bool, timeout_ms: int, direction: str, curious: bool, readers: int
    ) -> None:
        self.rig = Rig(snaplen=snaplen, immediate=immediate, timeout_ms=timeout_ms, direction=direction)
        self.real = self.rig.descriptor
        self.model = TwoBufferModel(CAPACITY, snaplen, immediate, timeout_ms * 1_000_000, DIRECTIONS[direction])
        self.curious = curious
        """Asks for the counts of the readers after every step, and so makes the descriptor look at their answers."""
        self.now_ns = 1_000_000_000
        self.appended = 0
        self.readers: dict[int, PlainReader] = {}
        self.fillings: dict[int, list[Filling]] = {}
        """Of each reader, the model's fillings that it holds, in the order of PlainReader.held."""
        for _ in range(readers):
            self.reader_joins()

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.close()

    # ---- packets ------------------------------------------------------------------------------------------

    def append_one(self, size: int, time_ns: int, cuts: Sequence[int] = (), **packet: Any) -> None:
        self.appended += 1
        data = _contents(self.appended, size)
        direction = packet.setdefault("direction", "inout")
        extra = packet.pop("cut_off", 0)
        wirelen = size + extra
        if cuts:
            self.real.append_fragments(_cut(data, cuts), time_ns=time_ns, wirelen=wirelen, **packet)
        else:
            self.real.append_bytes(data, time_ns=time_ns, wirelen=wirelen, **packet)
        self.model.append(data, wirelen, time_ns, packet.get("interface", 0), DIRECTIONS[direction])

    @rule(
        size=SIZES,
        time_ns=TIMES,
        cuts=st.lists(st.integers(0, 5000), max_size=3),
        interface=st.sampled_from([0, 1, 2**32 - 1]),
        direction=st.sampled_from(["inout", "in", "out"]),
        cut_off=st.sampled_from([0, 0, 10]),
    )
    def packet(self, size: int, time_ns: int, cuts: list[int], interface: int, direction: str, cut_off: int) -> None:
        self.append_one(size, time_ns, cuts, interface=interface, direction=direction, cut_off=cut_off)

    @rule(count=st.integers(1, 12), size=st.sampled_from([92, 300, 1000, 1500]), time_ns=TIMES)
    def packets(self, count: int, size: int, time_ns: int) -> None:
        for _ in range(count):
            self.append_one(size, time_ns)

    @rule(buffers=st.sampled_from([1, 2]), more=st.integers(0, 2))
    def buffers_full_of_packets(self, buffers: int, more: int) -> None:
        for _ in range(5 * buffers + more):
            self.append_one(700, self.now_ns)

    # ---- readers ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.readers) < READERS_MAX and not self.model.finished)
    @rule()
    def reader_joins(self) -> None:
        number = min(set(range(READERS_MAX)) - set(self.readers))
        self.readers[number] = self.rig.plain_reader(number)
        self.fillings[number] = []
        assert self.readers[number].sequence == self.model.join(number)

    @rule(work=st.lists(st.tuples(st.integers(0, READERS_MAX - 1), READER_WORK), min_size=1, max_size=8))
    def readers_work(self, work: list[tuple[int, str]]) -> None:
        for number, what in work:
            if number in self.readers:
                getattr(self, what)(number)

    @rule(work=READER_WORK)
    def all_readers_work(self, work: str) -> None:
        for number in self.readers:
            getattr(self, work)(number)

    def take(self, number: int) -> None:
        taken = self.readers[number].take()
        due = self.model.readers[number].due
        assert (taken is not None) == bool(due)
        if taken is not None:
            filling = due.pop(0)
            self.fillings[number].append(filling)
            _compare_taken(taken, filling)

    def acknowledge(self, number: int, at: int = 0) -> None:
        reader = self.readers[number]
        if reader.held:
            reader.acknowledge(reader.held[at])
            self.model.acknowledge(number, self.fillings[number].pop(at))

    def acknowledge_newest(self, number: int) -> None:
        self.acknowledge(number, -1)

    def take_and_acknowledge_all(self, number: int) -> None:
        while self.model.readers[number].due:
            self.take(number)
        while self.readers[number].held:
            self.acknowledge(number)

    @rule(number=st.integers(0, 2 * READERS_MAX))
    def reader_leaves_or_dies(self, number: int) -> None:
        if number in self.readers:
            delivered = self.real.remove_reader(number)
            assert delivered == self.model.leave(number)
            del self.readers[number], self.fillings[number]
            self.rig.seats.pop(number).close()

    # ---- requests and time ----------------------------------------------------------------------------------

    @rule(request=st.sampled_from(["rotate"] * 3 + ["tick"] * 6 + ["finish", "flush", "filter"]), data=st.data())
    def request(self, request: str, data: st.DataObject) -> None:
        getattr(self, request)(data)

    def rotate(self, _data: st.DataObject) -> None:
        assert self.real.rotate() == self.model.rotate()

    def tick(self, data: st.DataObject) -> None:
        self.now_ns += data.draw(st.sampled_from([0, 1, 6, 7, 8])) * 1_000_000
        self.real.tick(self.now_ns)
        self.model.tick(self.now_ns)

    def finish(self, _data: st.DataObject) -> None:
        self.real.finish()
        self.model.finish()

    def flush(self, _data: st.DataObject) -> None:
        self.real.flush()
        self.model.flush()

    def filter(self, data: st.DataObject) -> None:
        program, self.model.filter = FILTERS[data.draw(st.sampled_from(["everything", *FILTERS]))]
        flush = data.draw(st.sampled_from([False, False, True]))
        self.real.set_filter(program, flush)
        if flush:
            self.model.flush()

    # ---- what must hold after each of them ------------------------------------------------------------------

    @invariant()
    def no_buffer_changed_that_a_reader_holds(self) -> None:
        for reader in self.readers.values():
            for taken in reader.held:
                assert reader.blocks(taken.which, taken.header.kernel_len) == taken.blocks

    @invariant()
    def ledgers_agree(self) -> None:
        assert adds_up(read_ledger(self.rig.memory))
        assert self.real.ledger() == self.model.ledger()

    @invariant()
    def slots_agree(self) -> None:
        slots, model = self.real.slots(), self.model
        with_readers = [filling.buffer for filling in model.assigned]
        store = model.filling or model.assigned[1]
        assert slots["store"] == store.buffer
        assert slots["hold"] == (with_readers[0] if with_readers else None)
        assert slots["free"] == (None if with_readers else 1 - store.buffer)
        assert slots["assigned"] == (0 in with_readers, 1 in with_readers)
        assert slots["next_sequence"] == model.next_sequence()
        assert slots["generations"] == ((model.next_sequence() + 1) // 2, model.next_sequence() // 2)
        for which, generation in enumerate(slots["generations"]):
            header = self.rig.header(which)
            assert header.kernel_gen == generation
            assert header.user_gen == generation - (which in with_readers)
        for filling in {id(filling): filling for filling in (store, *model.assigned)}.values():
            assert slots["packets"][filling.buffer] == len(filling.packets)
            assert slots["lengths"][filling.buffer] == len(filling.blocks)

    @invariant()
    def what_is_stored_could_be_read_if_the_producer_died_now(self) -> None:
        if self.model.filling:
            which = self.model.filling.buffer
            header = self.rig.header(which)
            assert header.store_gen == header.kernel_gen + 1
            assert self.rig.blocks(which, header.stored_bytes) == self.model.filling.blocks

    @invariant()
    def counts_of_readers_agree(self) -> None:
        for number in self.readers if self.curious else ():
            expected = (self.model.readers[number].delivered, self.model.owed(number))
            assert self.real.reader_counts(number) == expected


def _compare_taken(taken: Taken, filling: Filling) -> None:
    header = taken.header
    assert taken.blocks == filling.blocks
    assert (header.sequence, taken.which) == (filling.number, filling.number % 2)
    assert header.packets == len(filling.packets)
    assert (header.first_ns, header.last_ns) == (filling.packets[0].time_ns, filling.packets[-1].time_ns)
    assert header.dropped_before == filling.packets[0].dropped
    assert (header.wire_bytes, header.interfaces) == (wire_bytes(filling.packets), 1)


@pytest.mark.slow
def test_a_descriptor_does_what_its_model_does_whatever_happens_to_both() -> None:
    run_state_machine_as_test(
        DescriptorMachine,
        settings=settings(
            derandomize=True,
            deadline=None,
            max_examples=300,
            stateful_step_count=60,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
