"""A descriptor's two buffers go through its three slots: each function of bpf_zerocopy.c under its plain name."""

import mmap
from collections.abc import Callable
from typing import Any

import pytest
from support.numbered_packets import MEMORY_BYTES, MakeRig
from support.rig import CAPACITY, HEADER_BYTES, PACKET, PAGE, PER_BUFFER, read_state

from zbuf.producer.ring.descriptor import Descriptor
from zbuf.shared.errors import SegmentError, ValueRefused

CLOSED = 4


# ---- the three slots ------------------------------------------------------------------------------------------------


def test_buffer_full_assigns_the_store_as_it_is_once_no_buffer_is_free(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER - 3)
    assert rig.descriptor.slots()["assigned"] == (True, False)
    rig.append(1, bytes(1000))
    assert rig.descriptor.slots()["assigned"] == (True, True)
    assert reader.take_now().header.packets == PER_BUFFER
    assert reader.take_now().header.packets == PER_BUFFER - 3


def test_buffer_full_does_nothing_to_a_buffer_that_is_assigned_already(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    before = [rig.header(0), rig.header(1), rig.blocks(0), rig.blocks(1)]
    rig.append(50)
    assert [rig.header(0), rig.header(1), rig.blocks(0), rig.blocks(1)] == before
    assert rig.descriptor.ledger()["dropped"] == 51


def test_buffer_held_assigns_what_comes_into_the_hold_slot(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(PER_BUFFER, time_ns=5)
    assert rig.header(0).kernel_gen == 0
    rig.append()
    header = rig.header(0)
    assert (header.kernel_gen, header.kernel_len, header.packets, header.sequence) == (1, CAPACITY, PER_BUFFER, 0)
    assert (header.first_ns, header.last_ns, header.dropped_before) == (5, 5, 0)


def test_buffer_held_does_not_assign_again_what_the_store_had_assigned(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 1)
    assert rig.descriptor.slots()["store"] == 1
    reader.take_now()
    reader.acknowledge()
    rig.append()
    slots = rig.descriptor.slots()
    assert (slots["hold"], slots["store"], slots["generations"]) == (1, 0, (1, 1))
    assert rig.header(1).kernel_gen == 1


def test_buffer_reclaimed_empties_the_hold_and_mirrors_the_generation_for_observers(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    reader.take_now()
    assert rig.header(0).user_gen == 0
    reader.acknowledge()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert rig.header(0).user_gen == 1
    assert rig.descriptor.slots()["free"] == 0


def test_can_free_buffer_says_no_until_every_reader_has_acknowledged(make_rig: MakeRig) -> None:
    rig = make_rig()
    readers = [rig.plain_reader(number) for number in range(3)]
    rig.append(PER_BUFFER + 1)
    for reader in reversed(readers):
        assert rig.descriptor.ledger()["delivered"] == 0
        assert rig.descriptor.slots()["hold"] == 0
        reader.take_now()
        reader.acknowledge()
    assert rig.descriptor.ledger()["delivered"] == PER_BUFFER
    assert rig.descriptor.slots()["hold"] is None


def test_can_free_buffer_says_yes_at_once_where_there_is_no_reader(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(10 * PER_BUFFER)
    ledger = rig.descriptor.ledger()
    assert (ledger["dropped"], ledger["abandoned"], ledger["buffered"]) == (0, 9 * PER_BUFFER, PER_BUFFER)


def test_can_write_buffer_keeps_the_producer_off_an_assigned_store(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    rig.append(PER_BUFFER + 1)
    rig.append(1, bytes(3900))  # does not fit behind the one packet in the store, and no buffer is free
    before = rig.blocks(1)
    rig.append(1, b"would fit")
    assert rig.blocks(1) == before
    assert rig.descriptor.ledger()["dropped"] == 2


def test_buffers_are_assigned_strictly_in_turn_a_first(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    for sequence in range(9):
        rig.append(sequence + 1)
        assert rig.descriptor.rotate()
        taken = reader.take_now()
        assert (taken.which, taken.header.sequence, taken.header.kernel_gen) == (
            sequence % 2,
            sequence,
            sequence // 2 + 1,
        )
        assert taken.header.packets == sequence + 1
        reader.acknowledge()


def test_close_marks_the_segment_closed_and_lets_go_of_its_memory(make_rig: MakeRig) -> None:
    rig = make_rig()
    memory = mmap.mmap(-1, MEMORY_BYTES)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    with pytest.raises(BufferError):
        memory.close()
    descriptor.close()
    assert read_state(memory) == CLOSED
    memory.close()
    rig.descriptor.close()
    rig.descriptor.close()
    assert read_state(rig.memory) == CLOSED


def test_close_leaves_the_readers_what_they_were_assigned(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.fill()
    rig.append()
    rig.descriptor.finish()
    rig.descriptor.close()
    assert [taken.header.packets for taken in (reader.take_now(), reader.take_now())] == [PER_BUFFER, 1]


def test_close_lets_go_of_every_ack_page(make_rig: MakeRig) -> None:
    rig = make_rig()
    pages = [rig.sit(number).ack for number in range(3)]
    with pytest.raises(BufferError):
        pages[0].close()
    rig.descriptor.close()
    for page in pages:
        page.close()


def test_a_closed_descriptor_refuses_everything_but_to_tell_its_ledger(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(3)
    rig.descriptor.close()
    refused: list[Callable[[], object]] = [
        lambda: rig.descriptor.append_bytes(PACKET),
        lambda: rig.descriptor.append_fragments([PACKET]),
        rig.descriptor.rotate,
        rig.descriptor.flush,
        rig.descriptor.finish,
        rig.descriptor.abandon,
        lambda: rig.descriptor.tick(1),
        lambda: rig.descriptor.set_filter(b""),
        lambda: rig.descriptor.add_reader(1, mmap.mmap(-1, PAGE), -1),
    ]
    for request in refused:
        with pytest.raises(SegmentError, match="without buffers"):
            request()
    assert rig.descriptor.ledger()["buffered"] == 3


# ---- set_buffers ----------------------------------------------------------------------------------------------------


def test_max_buffer_bytes_is_a_gibibyte_and_is_asked_without_a_descriptor() -> None:
    assert Descriptor.max_buffer_bytes() == 1 << 30


def test_set_buffers_gives_each_buffer_an_empty_header() -> None:
    memory = mmap.mmap(-1, MEMORY_BYTES)
    memory[PAGE : 3 * PAGE] = b"\xff" * (2 * PAGE)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    assert memory[PAGE : PAGE + 64] == memory[2 * PAGE : 2 * PAGE + HEADER_BYTES - 64] == bytes(64)
    assert descriptor.capacity_bytes == CAPACITY
    assert descriptor.slots()["store"] == 0
    assert descriptor.slots()["free"] == 1
    descriptor.close()


REFUSED_BUFFERS = {
    "first offset unaligned": (PAGE + 4, 3 * PAGE, PAGE, ValueRefused, "not aligned"),
    "second offset unaligned": (PAGE, 2 * PAGE + 2048, PAGE, ValueRefused, "not aligned"),
    "not whole pages": (PAGE, 3 * PAGE, PAGE + 4, ValueRefused, "whole number"),
    "less than a page": (PAGE, 2 * PAGE, 128, ValueRefused, "whole number"),
    "no bytes": (PAGE, 2 * PAGE, 0, ValueRefused, "more than zero"),
    "more than the maximum": (PAGE, 2 * PAGE, (1 << 30) + PAGE, ValueRefused, "more than the maximum"),
    "the same buffer twice": (PAGE, PAGE, PAGE, ValueRefused, "overlap"),
    "overlapping": (PAGE, 2 * PAGE, 2 * PAGE, ValueRefused, "overlap"),
    "overlapping the other way round": (2 * PAGE, PAGE, 2 * PAGE, ValueRefused, "overlap"),
    "over the segment's header": (0, 2 * PAGE, PAGE, ValueRefused, "overlap"),
    "second over the segment's header": (2 * PAGE, 0, PAGE, ValueRefused, "overlap"),
    "end outside the memory": (PAGE, 3 * PAGE, 2 * PAGE, SegmentError, "the memory has 16384"),
    "begin outside the memory": (PAGE, 64 * PAGE, PAGE, SegmentError, "the memory has 16384"),
    "first outside the memory": (4 * PAGE, PAGE, PAGE, SegmentError, "the memory has 16384"),
    "an end that wraps around": (PAGE, 2**64 - PAGE, PAGE, SegmentError, "the memory has 16384"),
    "an offset halfway round": (PAGE, 2**63 + PAGE, PAGE, SegmentError, "the memory has 16384"),
}


@pytest.mark.parametrize("name", REFUSED_BUFFERS)
def test_set_buffers_refuses_and_can_be_asked_again(name: str) -> None:
    offset_a, offset_b, size, error, why = REFUSED_BUFFERS[name]
    memory = mmap.mmap(-1, MEMORY_BYTES)
    descriptor = Descriptor()
    with pytest.raises(error, match=why):
        descriptor.set_buffers(memory, offset_a, offset_b, size)
    with pytest.raises(SegmentError, match="without buffers"):
        descriptor.append_bytes(PACKET)
    memory.resize(MEMORY_BYTES)  # raises where it is still exported
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    descriptor.append_bytes(PACKET)
    descriptor.close()


@pytest.mark.parametrize("offsets", [(-PAGE, PAGE), (PAGE, -PAGE), (PAGE, 2**64)])
def test_set_buffers_refuses_an_offset_that_is_none(offsets: tuple[int, int]) -> None:
    with pytest.raises(OverflowError):
        Descriptor().set_buffers(mmap.mmap(-1, MEMORY_BYTES), *offsets, PAGE)


def test_set_buffers_refuses_memory_at_an_unaligned_address() -> None:
    memory = mmap.mmap(-1, MEMORY_BYTES)
    with pytest.raises(ValueRefused, match="not aligned"):
        Descriptor().set_buffers(memoryview(memory)[64:], PAGE, 2 * PAGE, PAGE)


@pytest.mark.parametrize("memory", [bytes(MEMORY_BYTES), mmap.mmap(-1, MEMORY_BYTES, prot=mmap.PROT_READ)])
def test_set_buffers_refuses_memory_that_is_read_only(memory: Any) -> None:
    with pytest.raises((BufferError, TypeError)):
        Descriptor().set_buffers(memory, PAGE, 2 * PAGE, PAGE)


def test_set_buffers_refuses_to_be_called_twice(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append(5)
    before = rig.stored()
    with pytest.raises(SegmentError, match="installed already"):
        rig.descriptor.set_buffers(rig.memory, *rig.offsets, PAGE)
    assert rig.stored() == before


def test_set_buffers_refuses_a_descriptor_that_was_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.append()
    rig.descriptor.rotate()
    rig.descriptor.close()
    with pytest.raises(SegmentError):
        rig.descriptor.set_buffers(rig.memory, *rig.offsets, PAGE)


@pytest.mark.parametrize(
    "options",
    [{"snaplen": 0}, {"snaplen": -1}, {"snaplen": 262145}, {"timeout_ms": -1}, {"direction": "up"}],
    ids=str,
)
def test_a_descriptor_refuses_settings_that_can_not_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValueRefused, match=str(next(iter(options.values())))):
        Descriptor(**options)
