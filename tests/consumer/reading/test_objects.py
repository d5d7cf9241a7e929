"""Readers, buffers and packets as Python objects: made by hand, copied, collected."""

import copy
import gc
import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any, cast

import pytest
from support.reading import (
    MakeRig,
    collect_payloads,
    one_buffer,
    take,
    take_nothing,
)
from support.rig import PACKET, PAGE, PER_BUFFER, run_python

from zbuf.consumer.reading.segment_reader import SegmentReader
from zbuf.shared.memory.reader_pages import make_ack_page

# ---- made by hand --------------------------------------------------------------------------------------------------

HAND_MADE = """
    import copy, gc, pickle
    from zbuf.consumer.reading.buffer import Buffer, Packet
    from zbuf.consumer.reading.segment_reader import SegmentReader
    from zbuf.consumer.reading.turn import Turn

    def attempt(use, thing):
        try:
            use(thing)
        except Exception:
            pass  # an exception is all right: a crash is not

    uses = [bytes, len, iter, list, repr, str, hash, bool, memoryview, bytearray, copy.copy, copy.deepcopy,
            pickle.dumps, dir, next, float, int, lambda one: one[0], lambda one: one == one, lambda one: one.__class__]
    buffer = Buffer()
    kinds = [Packet, Buffer, type(iter(buffer)), Turn, SegmentReader]
    for kind in kinds:
        for make in (kind, lambda: kind.__new__(kind), lambda: object.__new__(kind), lambda: kind(1, 2, 3)):
            try:
                thing = make()
            except Exception:
                continue
            for name in sorted(set(dir(kind)) | {"no_such"}):
                attempt(lambda one: getattr(one, name), thing)
                attempt(lambda one: setattr(one, name, None), thing)
                if name not in ("__class__", "__new__", "__init_subclass__", "__subclasshook__"):
                    attempt(lambda one: getattr(one, name)(), thing)
                    attempt(lambda one: getattr(kind, name)(one), thing)
                    attempt(lambda one: getattr(kind, name)(one, one), thing)
            for use in uses:
                attempt(use, thing)
            del thing
            gc.collect()
    print("survived")
"""


def test_objects_made_by_hand_never_crash_the_interpreter() -> None:
    assert run_python(HAND_MADE) == (0, "survived\n", "")


@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_reader_a_buffer_and_a_packet_can_not_be_copied_or_pickled(
    make_rig: MakeRig, make_copy: Callable[[object], object]
) -> None:
    reader = make_rig().reader()
    with pytest.raises(TypeError, match=r"connect\(\) in each process"):
        make_copy(reader)
    buffer = one_buffer(make_rig(), b"abc")
    packet = next(iter(buffer))
    for thing in (buffer, packet, iter(buffer)):
        with pytest.raises(TypeError):
            make_copy(thing)
    assert bytes(packet) == b"abc"


WALKERS_BY_HAND = """
    from support.rig import Rig
    with Rig() as rig:
        reader = rig.reader()
        rig.append()
        rig.descriptor.rotate()
        for walker in (iter(reader), iter(reader.next_buffer(timeout=0))):
            try:
                next(type(walker)())
            except Exception as error:
                print(type(error).__name__)
"""


def test_iterators_made_by_hand_never_crash_the_interpreter() -> None:
    assert run_python(WALKERS_BY_HAND) == (0, "AttributeError\n" * 2, "")


# ---- what it is made of ---------------------------------------------------------------------------------------------


def test_a_reader_needs_an_ack_page_that_can_be_written(make_rig: MakeRig) -> None:
    rig = make_rig()
    with pytest.raises((BufferError, TypeError)):
        SegmentReader(rig.memory, rig.segment.layout, bytes(4096), doorbell=-1, sequence=0, spin_ns=0)
    with pytest.raises((BufferError, TypeError)):
        SegmentReader(cast(Any, 7), rig.segment.layout, bytearray(4096), doorbell=-1, sequence=0, spin_ns=0)


def test_a_reader_keeps_its_mappings_and_gives_them_up_with_itself(make_rig: MakeRig) -> None:
    rig = make_rig()
    ack_fd, ack = make_ack_page()
    os.close(ack_fd)
    reader: Any = SegmentReader(rig.memory, rig.segment.layout, ack, doorbell=-1, sequence=0, spin_ns=0)
    with pytest.raises(BufferError):
        ack.close()
    del reader
    gc.collect()
    ack.close()


def test_a_reader_that_is_collected_with_its_last_buffer_gives_its_mappings_up_too(make_rig: MakeRig) -> None:
    rig = make_rig()
    ack = mmap.mmap(-1, PAGE)
    rig.descriptor.add_reader(1, ack, -1)
    reader = SegmentReader(rig.memory, rig.segment.layout, ack, doorbell=-1, sequence=0, spin_ns=0)
    rig.append()
    rig.descriptor.rotate()
    take(reader)  # the reader and its buffer refer to each other from here on
    rig.descriptor.remove_reader(1)
    del reader
    gc.collect()
    ack.close()


def test_two_readers_each_get_everything_at_their_own_pace(make_rig: MakeRig) -> None:
    rig = make_rig()
    quick, slow = rig.reader(1), rig.reader(2)
    rig.append(PER_BUFFER, PACKET)
    rig.append(1, b"tail")
    rig.descriptor.finish()
    assert len(take(quick)) == PER_BUFFER
    assert [len(take(slow)), len(take(slow))] == [PER_BUFFER, 1]
    assert take_nothing(slow)
    assert rig.descriptor.ledger()["delivered"] == 0
    rig.descriptor.close()
    assert collect_payloads(quick) == [b"tail"]
    assert collect_payloads(slow) == []
