"""A descriptor's ledger adds up at every instant, and its counters never overflow."""

import ctypes
import random
import struct
from collections.abc import Callable

from support.numbered_packets import MakeRig, numbered, numbers
from support.rig import ETHERNET, HEADER_BYTES, LEDGER_FIELDS, PER_BUFFER, Rig, adds_up, read_ledger

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.descriptor import Descriptor


def test_the_ledger_adds_up_after_every_step_and_so_does_the_segments_copy(make_rig: MakeRig) -> None:
    chance = random.Random(8)
    rig = make_rig(snaplen=900)
    rig.descriptor.set_filter(compile_filter("greater 60", ETHERNET))
    readers = {number: rig.plain_reader(number) for number in (1, 2)}
    steps: list[Callable[[], object]] = [
        lambda: rig.append(chance.randrange(30), bytes(chance.randrange(1200))),
        rig.descriptor.rotate,
        lambda: readers[1].drain(),
        lambda: readers[2].drain(),
    ]
    for _ in range(2000):
        chance.choices(steps, [4, 1, 2, 2])[0]()
        assert adds_up(read_ledger(rig.memory))
        assert adds_up(rig.descriptor.ledger())
        assert read_ledger(rig.memory) == rig.descriptor.ledger()
    assert all(rig.descriptor.ledger().values()) is False  # nobody left: nothing is abandoned
    assert rig.descriptor.ledger()["abandoned"] == 0
    counts = rig.descriptor.ledger()
    assert min(counts[name] for name in counts if not name.startswith(("abandoned", "buffered"))) > 0


def test_the_segments_ledger_is_exact_once_it_is_closed(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(PER_BUFFER + 5)
    rig.descriptor.finish()
    reader.drain()
    rig.descriptor.close()
    assert read_ledger(rig.memory) == rig.descriptor.ledger()
    assert read_ledger(rig.memory)["delivered"] == PER_BUFFER + 5


def descriptor_words(descriptor: Descriptor) -> ctypes.Array[ctypes.c_uint64]:
    """The memory of the extension object itself, which is where its counters are."""
    size: int = type(descriptor).__basicsize__
    return (ctypes.c_uint64 * (size // 8)).from_address(id(descriptor))


def pretend_counters(rig: Rig, **counters: int) -> None:
    """Have a descriptor believe that it has counted so far."""
    known = tuple(rig.descriptor.ledger()[name] for name in LEDGER_FIELDS)
    words = descriptor_words(rig.descriptor)
    places = [at for at in range(len(words) - len(known) + 1) if tuple(words[at : at + len(known)]) == known]
    assert len(places) == 1, "the counters are not where this test looks for them"
    for name, count in counters.items():
        words[places[0] + LEDGER_FIELDS.index(name)] = count


def test_counters_go_on_past_thirty_two_bits(make_rig: MakeRig) -> None:
    rig = make_rig(snaplen=50)
    reader = rig.plain_reader()
    rig.descriptor.set_filter(compile_filter("greater 10", ETHERNET))
    rig.append(3)
    rig.append(2, b"refused")
    edge = 2**32 - 1
    pretend_counters(
        rig, received=4 * edge + 3, filtered=edge, accepted=3 * edge + 3, delivered=edge, dropped=edge, abandoned=edge
    )
    rig.append(200)
    rig.append(1, b"refused")
    reader.drain()
    rig.descriptor.remove_reader(1)
    rig.append(100)
    ledger = rig.descriptor.ledger()
    assert adds_up(ledger)
    assert ledger["received"] == 4 * edge + 3 + 301
    assert min(ledger[name] for name in LEDGER_FIELDS[:6]) >= 2**32
    assert read_ledger(rig.memory) == ledger


def test_a_loss_of_more_than_thirty_two_bits_is_told_in_full(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    rig.append(2 * PER_BUFFER + 77)
    words = descriptor_words(rig.descriptor)
    [place] = [at for at in range(len(words)) if words[at] == 77 and words[at + 1] == 2]  # lost, then next_sequence
    words[place] = 2**40 + 77
    reader.drain()
    rig.append()
    rig.descriptor.rotate()
    taken = reader.take_now()
    assert taken.packets[0].dropped == taken.header.dropped_before == 2**40 + 77


def test_generations_may_wrap(make_rig: MakeRig) -> None:
    rig = make_rig()
    pretend_generations(rig, 2**32 - 2)
    reader = rig.plain_reader()
    generations = []
    for at in range(6):
        rig.descriptor.append_bytes(numbered(at))
        assert rig.header(at % 2).store_gen == (2**32 - 2 + at // 2 + 1) % 2**32
        assert rig.descriptor.rotate()
        taken = reader.take_now()
        generations.append(taken.header.kernel_gen)
        assert numbers(taken.packets) == [at]
        reader.acknowledge()
    assert generations == [2**32 - 1, 2**32 - 1, 0, 0, 1, 1]
    assert rig.descriptor.ledger()["delivered"] == 6


def pretend_generations(rig: Rig, generation: int) -> None:
    """Have a descriptor believe that each buffer was assigned so many times."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(rig.memory))
    words = descriptor_words(rig.descriptor)
    for which, offset in enumerate(rig.offsets):
        [place] = [at for at in range(len(words)) if words[at] == first + offset]  # zbuf.header, blocks, then gen
        assert words[place + 1] == first + offset + HEADER_BYTES
        words[place + 2] = generation
        rig.poke(which, 0, struct.pack("<I", generation))
