"""The pump: every packet of a source to every descriptor, once and in order, whoever interrupts it."""

import gc
import mmap
import os
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from support.cython import build_module
from support.project import TESTS
from support.rig import (
    ETHERNET,
    LEDGER_FIELDS,
    PAGE,
    PER_BUFFER,
    PlainReader,
    Rig,
    parse_blocks,
    read_header,
    read_ledger,
    run_python,
    wait_until,
)

from zbuf.producer.filters import compile_filter
from zbuf.producer.ring.descriptor import Descriptor
from zbuf.producer.ring.pump import Pump
from zbuf.producer.sources.files.libpcap_file import CaptureFile
from zbuf.producer.sources.files.store import PacketStore
from zbuf.shared.errors import CaptureFileError, ValueRefused

if TYPE_CHECKING:
    from zbuf.producer.ring.contract import NativeSource

MakeRig = Callable[..., Rig]
BATCH = 256  # packets that a store hands out at a time
LONG = 20  # seconds; only broken code waits as long
PACKET_BYTES = 92  # makes PER_BUFFER of them fill a buffer


def payload(number: int, size: int = PACKET_BYTES) -> bytes:
    return (struct.pack("<I", number) * (size // 4 + 1))[:size]


def capture_image(
    packets: Sequence[bytes], *, wire_extra: int = 0, magic: int = 0xA1B23C4D, linktype: int = 1
) -> bytes:
    """A classic pcap file, of nanoseconds unless `magic` says else; packet n is of n seconds and n units."""
    image = struct.pack("<IHHiIII", magic, 2, 4, 0, 0, 262144, linktype)
    for number, data in enumerate(packets):
        image += struct.pack("<IIII", number, number, len(data), len(data) + wire_extra) + data
    return image


def open_image(image: bytes, interface: int = 0) -> CaptureFile:
    fd = os.memfd_create("capture")
    os.write(fd, image)
    os.lseek(fd, 0, os.SEEK_SET)
    return CaptureFile(fd, "lab.pcap", interface)


def store_of(count: int, *, passes: int = 1) -> PacketStore:
    """A store of numbered packets, ready to be run."""
    store = PacketStore()
    file = open_image(capture_image([payload(number) for number in range(count)]))
    while store.load(file, count):
        pass
    assert len(store) == count
    store.rewind(passes)
    return store


def numbers(reader: PlainReader) -> list[int]:
    """The numbers of the packets that are assigned to a reader; it acknowledges them."""
    return [int.from_bytes(packet.data[:4], "little") for packet in reader.drain()]


def stored_numbers(rig: Rig) -> list[int]:
    return [int.from_bytes(packet.data[:4], "little") for packet in parse_blocks(rig.stored())]


def make_pump(*rigs: Rig, lossless: bool = False) -> Pump:
    pump = Pump(lossless=lossless)
    for rig in rigs:
        pump.attach(rig.descriptor)
    return pump


class Running:
    """pump.run(source) on a thread, which must come back."""

    def __init__(self, pump: Pump, source: "NativeSource") -> None:
        self.answers: list[bool] = []
        self.pump = pump
        self.thread = threading.Thread(target=lambda: self.answers.append(pump.run(source)))
        self.thread.start()

    def interrupt_once_it_waits(self) -> bool:
        """What run() returned."""
        waits = self.pump.waits
        try:
            wait_until(lambda: self.pump.waits > waits or not self.thread.is_alive())
        finally:
            self.pump.interrupt()
        return self.join()

    def join(self) -> bool:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        return self.answers[0]


@pytest.fixture(scope="session")
def native_sources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Sources of the tests' own, compiled against the contract."""
    return build_module(TESTS / "support" / "native" / "native_sources.pyx", tmp_path_factory.mktemp("native"))


# ---- sources ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("magic", "unit_ns"), [(0xA1B23C4D, 1), (0xA1B2C3D4, 1000)], ids=["nanoseconds", "microseconds"]
)
def test_a_capture_file_gives_its_packets_with_times_lengths_and_its_interface(
    make_rig: MakeRig, magic: int, unit_ns: int
) -> None:
    rig = make_rig()
    image = capture_image([payload(number, 8) for number in range(3)], wire_extra=100, magic=magic)
    file = open_image(image, interface=4)
    pump = make_pump(rig)
    assert pump.run(file) is True
    packets = parse_blocks(rig.stored())
    assert [packet.data for packet in packets] == [payload(number, 8) for number in range(3)]
    assert [packet.time_ns for packet in packets] == [number * 10**9 + number * unit_ns for number in range(3)]
    assert {(packet.wirelen, packet.interface, packet.direction) for packet in packets} == {(108, 4, 0)}
    assert (file.packets, file.linktype, file.damage, pump.offered) == (3, ETHERNET, None, 3)


def test_a_capture_file_of_many_batches_is_read_to_its_end(make_rig: MakeRig) -> None:
    rig = make_rig(buffer_bytes=1 << 20)
    sizes = [(number * 37) % 3000 for number in range(3 * BATCH + 5)]
    file = open_image(capture_image([payload(number, size) for number, size in enumerate(sizes)]))
    reader = rig.plain_reader()
    assert make_pump(rig).run(file) is True
    rig.descriptor.finish()
    assert [packet.data for packet in reader.drain()] == [payload(number, size) for number, size in enumerate(sizes)]
    assert rig.descriptor.ledger()["dropped"] == 0


def test_a_capture_file_may_be_a_pipe(make_rig: MakeRig) -> None:
    rig = make_rig()
    reading, writing = os.pipe()
    os.write(writing, capture_image([payload(7)]))
    os.close(writing)
    assert make_pump(rig).run(CaptureFile(reading, "standard input")) is True
    assert stored_numbers(rig) == [7]


@pytest.mark.parametrize("cut", [1, 16, 20, 107])
def test_a_damaged_capture_file_gives_what_is_whole_and_tells_where_it_ended(make_rig: MakeRig, cut: int) -> None:
    rig = make_rig()
    file = open_image(capture_image([payload(number) for number in range(5)])[:-cut])
    assert make_pump(rig).run(file) is True
    assert stored_numbers(rig) == [0, 1, 2, 3]
    assert "lab.pcap: damaged after 4 whole packets" in str(file.damage)


@pytest.mark.parametrize("image", [b"", b"\n\r", b"not a capture file at all, whatever its name says"])
def test_a_file_that_is_no_capture_is_refused_by_name_and_closed(image: bytes) -> None:
    fd = os.memfd_create("capture")
    os.write(fd, image)
    os.lseek(fd, 0, os.SEEK_SET)
    with pytest.raises(CaptureFileError, match=r"lab\.pcap: not a capture file"):
        CaptureFile(fd, "lab.pcap")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_capture_file_closes_its_descriptor() -> None:
    for give_up in (lambda file: file.close(), lambda _file: None):
        fd = os.memfd_create("capture")
        os.write(fd, capture_image([]))
        os.lseek(fd, 0, os.SEEK_SET)
        file = CaptureFile(fd, "lab.pcap")
        os.fstat(fd)
        give_up(file)
        del file
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_closed_capture_file_has_no_more_packets(make_rig: MakeRig) -> None:
    rig = make_rig()
    file = open_image(capture_image([payload(1)]))
    file.close()
    assert make_pump(rig).run(file) is True
    assert rig.descriptor.ledger()["received"] == 0


def test_a_store_loads_whole_batches_until_it_has_what_it_is_told_to() -> None:
    file = open_image(capture_image([payload(number) for number in range(2 * BATCH + 10)]))
    store = PacketStore()
    assert (store.load(file, 4), len(store), store.captured_bytes) == (True, BATCH, BATCH * PACKET_BYTES)
    assert (store.load(file, BATCH), len(store)) == (True, 2 * BATCH)
    assert (store.load(file, 100), len(store), store.captured_bytes) == (
        False,
        2 * BATCH + 10,
        (2 * BATCH + 10) * PACKET_BYTES,
    )
    assert store.load(file, 1) is False


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_store_is_given_as_often_as_it_is_told_to(make_rig: MakeRig, count: int, passes: int) -> None:
    rig = make_rig(buffer_bytes=1 << 20)
    reader = rig.plain_reader()
    pump = make_pump(rig)
    store = store_of(count, passes=passes)
    assert pump.run(store) is True
    assert pump.run(store) is True  # and is at its end
    rig.descriptor.rotate()
    assert numbers(reader) == list(range(count)) * passes
    assert pump.offered == count * passes
    store.rewind(1)
    assert pump.run(store) is True
    rig.descriptor.finish()
    assert numbers(reader) == list(range(count))


def test_a_store_of_nothing_is_at_its_end_at_once(make_rig: MakeRig) -> None:
    pump = make_pump(make_rig())
    store = PacketStore()
    store.rewind(5)
    assert pump.run(store) is True
    assert (pump.offered, len(store)) == (0, 0)


def test_a_source_that_fails_raises_its_own_error(make_rig: MakeRig, native_sources: Any) -> None:
    with pytest.raises(OSError, match="the network is down"):
        make_pump(make_rig()).run(native_sources.FailingSource(OSError("the network is down")))


def test_a_source_that_fails_and_does_not_say_why_is_an_error_all_the_same(
    make_rig: MakeRig, native_sources: Any
) -> None:
    with pytest.raises(CaptureFileError, match="does not say why"):
        make_pump(make_rig()).run(native_sources.FailingSource(None))


# ---- descriptors -------------------------------------------------------------------------------------------------


def test_every_descriptor_gets_every_packet_and_filters_for_itself(make_rig: MakeRig) -> None:
    expressions = ["", "ether[0] & 1 = 1", "ether[0] < 10", "less 10"]
    rigs = [make_rig(buffer_bytes=1 << 20) for _ in expressions]
    for rig, expression in zip(rigs, expressions, strict=True):
        rig.descriptor.set_filter(compile_filter(expression, ETHERNET))
    make_pump(*rigs).run(store_of(200))
    assert [stored_numbers(rig) for rig in rigs] == [list(range(200)), list(range(1, 200, 2)), list(range(10)), []]
    assert [rig.descriptor.ledger()["received"] for rig in rigs] == [200] * 4
    assert [rig.descriptor.ledger()["filtered"] for rig in rigs] == [0, 100, 190, 200]


def test_a_lossy_pump_drops_for_the_slow_and_for_nobody_else(make_rig: MakeRig) -> None:
    slow, idle, quick = make_rig(), make_rig(), make_rig(buffer_bytes=1 << 20)
    slow.plain_reader()
    make_pump(slow, idle, quick).run(store_of(1000))
    assert [rig.descriptor.ledger()["dropped"] for rig in (slow, idle, quick)] == [1000 - 2 * PER_BUFFER, 0, 0]
    assert stored_numbers(quick) == list(range(1000))


def test_a_pump_without_descriptors_runs_its_source_out() -> None:
    pump = Pump()
    assert pump.run(store_of(500)) is True
    assert pump.offered == 500


def test_a_detached_descriptor_gets_nothing_more_and_the_others_go_on(make_rig: MakeRig) -> None:
    rigs = [make_rig(buffer_bytes=1 << 20) for _ in range(4)]
    pump = make_pump(*rigs)
    for at in (1, 3, 0):
        pump.run(store_of(10))
        pump.detach(rigs[at].descriptor)
    pump.run(store_of(10))
    assert [rig.descriptor.ledger()["received"] for rig in rigs] == [30, 10, 40, 20]
    with pytest.raises(ValueError, match="not in list"):
        pump.detach(rigs[0].descriptor)


def test_a_pump_keeps_its_descriptors_alive() -> None:
    memory = mmap.mmap(-1, 3 * PAGE)
    descriptor = Descriptor()
    descriptor.set_buffers(memory, PAGE, 2 * PAGE, PAGE)
    pump = Pump()
    pump.attach(descriptor)
    del descriptor
    assert pump.run(store_of(3)) is True
    assert read_header(memory, PAGE).stored_bytes == 3 * 124
    del pump
    memory.close()


OFF_BUFFERS = """
    import sys
    from support.rig import Rig
    from zbuf.producer.ring.descriptor import Descriptor
    from zbuf.producer.ring.pump import Pump
    pump = Pump()
    with Rig() as rig:
        descriptor = Descriptor()
        if sys.argv[1] == "closed":
            descriptor = rig.descriptor
        try:
            pump.attach(descriptor)
            rig.descriptor.close()
            pump.offer(b"a packet", 1)
        except Exception as error:
            print(type(error).__name__)
        print(descriptor.ledger()["received"])
"""


@pytest.mark.parametrize("state", ["closed", "never set up"])
def test_a_pump_gives_nothing_to_a_descriptor_without_buffers(state: str) -> None:
    assert run_python(OFF_BUFFERS, state) == (0, "0\n", "")


# ---- lossless, and interrupted -----------------------------------------------------------------------------------


def test_an_interrupt_before_a_run_makes_it_return_at_once_and_no_later_one(make_rig: MakeRig) -> None:
    rig = make_rig()
    pump, store = make_pump(rig), store_of(10)
    pump.interrupt()
    assert pump.run(store) is False
    assert rig.descriptor.ledger()["received"] == 0
    assert pump.run(store) is True
    assert stored_numbers(rig) == list(range(10))


def test_a_lossless_pump_waits_where_a_lossy_one_drops(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump, store = make_pump(rig, lossless=True), store_of(1000)
    assert Running(pump, store).interrupt_once_it_waits() is False
    ledger = rig.descriptor.ledger()
    assert (ledger["received"], ledger["accepted"], ledger["dropped"]) == (2 * PER_BUFFER, 2 * PER_BUFFER, 0)
    assert read_ledger(rig.memory)["dropped"] == 0
    assert numbers(reader) == list(range(2 * PER_BUFFER))


def test_a_lossless_pump_goes_on_after_an_interrupt_with_nothing_lost_or_doubled(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump, store = make_pump(rig, lossless=True), store_of(BATCH + 100, passes=2)
    got: list[int] = []
    interrupts = 0
    while not Running(pump, store).interrupt_once_it_waits():
        interrupts += 1
        got += numbers(reader)
    rig.descriptor.finish()
    assert got + numbers(reader) == list(range(BATCH + 100)) * 2
    assert interrupts >= 2 * (BATCH + 100) // (2 * PER_BUFFER) - 1
    assert pump.offered == 2 * (BATCH + 100)
    ledger = rig.descriptor.ledger()
    assert {name: ledger[name] for name in LEDGER_FIELDS[:8] if ledger[name]} == dict.fromkeys(
        ("received", "accepted", "delivered"), 2 * (BATCH + 100)
    )


def test_a_pump_keeps_the_source_of_a_batch_that_it_has_not_finished(make_rig: MakeRig, native_sources: Any) -> None:
    rig = make_rig()
    rig.plain_reader()
    pump, source = make_pump(rig, lossless=True), native_sources.WatchedSource(store_of(1000))
    watch = weakref.ref(source)
    running = Running(pump, source)
    del source
    assert running.interrupt_once_it_waits() is False
    del running
    gc.collect()
    kept = watch() is not None
    pump.cancel()
    assert kept


def test_a_lossless_pump_never_waits_for_a_descriptor_that_has_no_reader(make_rig: MakeRig) -> None:
    rig = make_rig()
    pump = make_pump(rig, lossless=True)
    assert pump.run(store_of(5000)) is True
    assert pump.waits == 0


def test_a_reader_that_leaves_sets_a_lossless_pump_free(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    pump, store = make_pump(rig, lossless=True), store_of(1000)
    assert Running(pump, store).interrupt_once_it_waits() is False
    rig.descriptor.remove_reader(1)
    assert pump.run(store) is True
    assert rig.descriptor.ledger()["received"] == 1000
    assert rig.descriptor.ledger()["abandoned"] + rig.descriptor.ledger()["buffered"] == 1000


@pytest.mark.parametrize("lossless_first", [True, False])
def test_an_interrupt_doubles_nothing_for_the_descriptors_that_were_ahead(
    make_rig: MakeRig, lossless_first: bool
) -> None:
    slow, quick = make_rig(), make_rig(buffer_bytes=1 << 20)
    reader = slow.plain_reader()
    rigs = (slow, quick) if lossless_first else (quick, slow)
    pump, store = make_pump(*rigs, lossless=True), store_of(2 * BATCH)
    got = []
    while not Running(pump, store).interrupt_once_it_waits():
        got += numbers(reader)
    slow.descriptor.finish()
    assert got + numbers(reader) == list(range(2 * BATCH))
    assert stored_numbers(quick) == list(range(2 * BATCH))


def test_a_descriptor_attached_at_an_interruption_gets_packets_from_the_next_batch_on(make_rig: MakeRig) -> None:
    slow, late = make_rig(), make_rig(buffer_bytes=1 << 20)
    reader = slow.plain_reader()
    pump, store = make_pump(slow, lossless=True), store_of(3 * BATCH)
    assert Running(pump, store).interrupt_once_it_waits() is False
    pump.attach(late.descriptor)
    got = numbers(reader)
    while not Running(pump, store).interrupt_once_it_waits():
        got += numbers(reader)
    slow.descriptor.finish()
    assert got + numbers(reader) == list(range(3 * BATCH))
    assert stored_numbers(late) == list(range(BATCH, 3 * BATCH))


@pytest.mark.parametrize("leaver", [0, 1, 2])
def test_a_descriptor_detached_at_an_interruption_changes_nothing_for_the_others(
    make_rig: MakeRig, leaver: int
) -> None:
    rigs = [make_rig(buffer_bytes=1 << 20), make_rig(), make_rig(buffer_bytes=1 << 20)]
    reader = rigs[1].plain_reader()
    pump, store = make_pump(*rigs, lossless=True), store_of(2 * BATCH + 9)
    assert Running(pump, store).interrupt_once_it_waits() is False
    pump.detach(rigs[leaver].descriptor)
    got = numbers(reader)
    while not Running(pump, store).interrupt_once_it_waits():
        got += numbers(reader)
    rigs[1].descriptor.finish()
    got += numbers(reader)
    everything = list(range(2 * BATCH + 9))
    assert got == (everything if leaver != 1 else everything[: 2 * PER_BUFFER])
    assert stored_numbers(rigs[0]) == (everything if leaver != 0 else everything[:BATCH])
    assert stored_numbers(rigs[2]) == (everything if leaver != 2 else [])


def test_a_pump_that_is_interrupted_all_the_time_delivers_everything_in_order_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.reader(spin_ns=0)
    pump, store = make_pump(rig, lossless=True), store_of(1000, passes=10)
    interrupted = 0

    def produce() -> None:
        nonlocal interrupted
        while not pump.run(store):
            interrupted += 1
        rig.descriptor.finish()

    thread = threading.Thread(target=produce)
    thread.start()
    got: list[int] = []
    try:
        while len(got) < 10_000 and (buffer := reader.next_buffer(timeout=LONG)) is not None:
            got += [int.from_bytes(bytes(packet)[:4], "little") for packet in buffer]
            pump.interrupt()
        thread.join(LONG)
    finally:
        rig.descriptor.remove_reader(1)
        thread.join(LONG)
    assert got == list(range(1000)) * 10
    assert interrupted > 0
    assert pump.offered == 10_000


# ---- offer, resume, cancel -----------------------------------------------------------------------------------------


def test_offer_gives_one_packet_to_every_descriptor(make_rig: MakeRig) -> None:
    first, second = make_rig(), make_rig()
    pump = make_pump(first, second)
    assert pump.offer(b"abcde", 77, 99, 3, 2) is True
    assert pump.offer(memoryview(b"fgh"), 78) is True
    for rig in (first, second):
        one, other = parse_blocks(rig.stored())
        assert (one.data, one.time_ns, one.wirelen, one.interface, one.direction) == (b"abcde", 77, 99, 3, 2)
        assert (other.data, other.time_ns, other.wirelen, other.interface, other.direction) == (b"fgh", 78, 3, 0, 0)
    assert pump.offered == 2


def test_offer_cuts_what_is_longer_than_any_packet_and_counts_it(make_rig: MakeRig) -> None:
    rig = make_rig(buffer_bytes=1 << 20)
    make_pump(rig).offer(bytes(400_000), 1)
    [packet] = parse_blocks(rig.stored())
    assert (len(packet.data), packet.wirelen) == (262144, 400_000)
    assert rig.descriptor.ledger()["truncated"] == 1


@pytest.mark.parametrize(
    ("time_ns", "wirelen", "interface"), [(-1, 1, 0), (2**64, 1, 0), (1, -1, 0), (1, 2**32, 0), (1, 1, -1), ("x", 1, 0)]
)
def test_offer_refuses_values_that_fit_no_block_and_keeps_no_hold_of_the_data(
    make_rig: MakeRig, time_ns: int, wirelen: int, interface: int
) -> None:
    rig = make_rig()
    pump = make_pump(rig)
    data = bytearray(b"abc")
    with pytest.raises(ValueRefused, match="packet with"):
        pump.offer(data, time_ns, wirelen, interface)
    data.extend(b"more")  # raises where it is still exported
    assert pump.offer(data, 1) is True
    assert rig.descriptor.ledger()["received"] == 1


@pytest.mark.parametrize("direction", [-1, 2**32, "in"])
def test_offer_refuses_a_direction_that_is_none_and_keeps_no_hold_of_the_data(
    make_rig: MakeRig, direction: int
) -> None:
    pump = make_pump(make_rig())
    data = bytearray(b"abc")
    with pytest.raises((ValueRefused, OverflowError, TypeError)):
        pump.offer(data, 1, direction=direction)
    pump.offer(b"the next", 1)
    data.extend(b"more")


def test_offer_to_a_lossy_pump_never_waits(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    pump = make_pump(rig)
    assert all(pump.offer(payload(number), number) for number in range(3 * PER_BUFFER))
    assert rig.descriptor.ledger()["dropped"] == PER_BUFFER


def offer_until_it_waits(pump: Pump) -> int:
    """Offer numbered packets; return the number of the one that waits."""
    for number in range(1000):
        if not pump.offer(payload(number), number):
            return number
    raise AssertionError("nothing waits")


def test_offer_to_a_lossless_pump_says_when_a_packet_waits_and_resume_delivers_it_once(make_rig: MakeRig) -> None:
    slow, quick = make_rig(), make_rig(buffer_bytes=1 << 20)
    reader = slow.plain_reader()
    pump = make_pump(quick, slow, lossless=True)
    assert offer_until_it_waits(pump) == 2 * PER_BUFFER
    assert pump.offered == 2 * PER_BUFFER
    got = numbers(reader)
    assert pump.resume() is True
    assert pump.offered == 2 * PER_BUFFER + 1
    assert pump.offer(payload(2 * PER_BUFFER + 1), 1) is True
    slow.descriptor.finish()
    assert got + numbers(reader) == list(range(2 * PER_BUFFER + 2))
    assert stored_numbers(quick) == list(range(2 * PER_BUFFER + 2))
    assert slow.descriptor.ledger()["dropped"] == 0


def test_resume_waits_for_the_reader_and_can_be_interrupted(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump = make_pump(rig, lossless=True)
    waiting = offer_until_it_waits(pump)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(pump.resume()))
    thread.start()
    wait_until(lambda: pump.waits > 0)
    pump.interrupt()
    thread.join(LONG)
    assert answers == [False]
    got = numbers(reader)
    assert pump.resume() is True
    rig.descriptor.finish()
    assert got + numbers(reader) == list(range(waiting + 1))


def test_another_packet_is_refused_while_one_waits(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.plain_reader()
    pump = make_pump(rig, lossless=True)
    offer_until_it_waits(pump)
    data = bytearray(b"abc")
    with pytest.raises(ValueRefused, match="still waits"):
        pump.offer(data, 1)
    data.extend(b"more")


@pytest.mark.parametrize("way_out", ["resume", "cancel", "drop"])
def test_the_data_of_a_waiting_packet_is_held_until_it_is_delivered_or_given_up(
    make_rig: MakeRig, way_out: str
) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump = make_pump(rig, lossless=True)
    rig.append(2 * PER_BUFFER)
    data = bytearray(payload(5))
    assert pump.offer(data, 1) is False
    with pytest.raises(BufferError):
        data.extend(b"more")
    if way_out == "resume":
        reader.drain()
        assert pump.resume() is True
    elif way_out == "cancel":
        pump.cancel()
    else:
        del pump
    data.extend(b"more")


def test_a_cancelled_packet_reaches_nobody_else_and_the_next_one_goes_its_way(make_rig: MakeRig) -> None:
    quick, slow = make_rig(buffer_bytes=1 << 20), make_rig()
    reader = slow.plain_reader()
    pump = make_pump(quick, slow, lossless=True)
    waiting = offer_until_it_waits(pump)
    pump.cancel()
    got = numbers(reader)
    assert pump.offer(payload(500), 1) is True
    slow.descriptor.finish()
    assert got + numbers(reader) == [*range(waiting), 500]
    assert stored_numbers(quick) == [*range(waiting + 1), 500]
    assert pump.offered == waiting + 1


def test_a_packet_that_waits_is_delivered_by_a_run_before_anything_else(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump = make_pump(rig, lossless=True)
    waiting = offer_until_it_waits(pump)
    got = numbers(reader)
    assert pump.run(store_of(3)) is True
    rig.descriptor.finish()
    assert got + numbers(reader) == [*range(waiting + 1), 0, 1, 2]


def test_a_cancelled_batch_is_not_gone_on_with(make_rig: MakeRig) -> None:
    rig = make_rig()
    reader = rig.plain_reader()
    pump, store = make_pump(rig, lossless=True), store_of(2 * BATCH)
    assert Running(pump, store).interrupt_once_it_waits() is False
    pump.cancel()
    got = numbers(reader)
    while not Running(pump, store).interrupt_once_it_waits():
        got += numbers(reader)
    rig.descriptor.finish()
    assert got + numbers(reader) == [*range(2 * PER_BUFFER), *range(BATCH, 2 * BATCH)]
