"""kill -9, of readers and of producers, while they are busy and at moments that a seed or a count of calls decides.

The producer counts in a shared mapping what it has appended, after each packet.  Whatever it had counted when it was
killed must arrive, and at most one packet more: the one that was in the store and not counted yet.
"""

import contextlib
import itertools
import mmap
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap
from support.processes import Nursery, Remote, number_of, numbered, take_all

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.producer import Producer
from zbuf.shared.control.statistics import Ledger
from zbuf.shared.errors import ControlError, ProducerNotFound
from zbuf.shared.memory.segment import map_segment

PAGE = 4096
PER_PAGE = 43
"""Packets of numbered() that a buffer of one page holds."""

NewRemote = Callable[[], Remote]

APPENDING = """
import mmap
with open(path, "r+b") as file:
    words = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
producer = Producer(name, **options)
def append_until_told():
    number = 0
    while not words[1]:
        producer.append(numbered(number))
        number += 1
        words[0] = number
"""
"""A producer of the numbered packets; words[0] counts them, words[1] tells it to stop."""

READING = """
def kill_after(count, pid):
    found = take(reader, count)
    os.kill(pid, signal.SIGKILL)
    return found + take_all(reader)

def die_after(count):
    take(reader, count)
    os.kill(os.getpid(), signal.SIGKILL)

def take_with_gaps():
    "The numbers, and how many the packets say were dropped before each."
    return [(number_of(bytes(packet)), packet.dropped) for packet in reader]

reader = connect(name, **options)
"""

SABOTAGE = """
import sys
left = [0]
IN_THEIR_OWN_TIME = {"_tick", "tick", "tick_s", "_tick_all", "leftovers"}
def profile(frame, event, argument):
    "Die before the call number left[0] that the product makes of anything in C, in any thread."
    ours = frame.f_globals.get("__name__", "").startswith("zbuf.")
    if event == "c_call" and ours and frame.f_code.co_name not in IN_THEIR_OWN_TIME:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
threading.setprofile(profile)
"""


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    """All of these tests have a run directory of their own."""
    return run_dir


class Counted:
    """The memory that a producer counts in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(16))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)
        self._words = memoryview(self._map).cast("Q")

    @property
    def appended(self) -> int:
        return self._words[0]

    def wait_for(self, count: int) -> None:
        """Wait until so many are appended."""
        while self.appended < count:
            os.sched_yield()

    def tell_to_stop(self) -> None:
        self._words[1] = 1

    def close(self) -> None:
        self._words.release()
        self._map.close()


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Counted]:
    with contextlib.closing(Counted(tmp_path / "counted")) as counted:
        yield counted


def start_producer(remote: NewRemote, name: str, counted: Counted, **options: Any) -> Remote:
    process = remote()
    process.do(APPENDING, name=name, path=str(counted.path), options=options)
    return process


def start_reader(remote: NewRemote, name: str, **options: Any) -> Remote:
    process = remote()
    process.do(READING, name=name, options=options)
    return process


def adds_up(ledger: Ledger) -> bool:
    accepted = ledger.delivered + ledger.dropped + ledger.abandoned + ledger.buffered
    return ledger.received == ledger.filtered + ledger.accepted and ledger.accepted == accepted


def segments(name: str) -> list[str]:
    return sorted(entry.name for entry in Path("/dev/shm").glob(f"zbuf.{name}.*"))


def assert_has_all(found: list[int], counted: Counted) -> None:
    """Gapless from the first packet on, with all that was counted, and at most the one that was being counted."""
    assert found == list(range(len(found)))
    assert counted.appended <= len(found) <= counted.appended + 1


# ---- the producer is killed -----------------------------------------------------------------------------------------

KINDS = {
    "sleeping": {"wait": "sleep"},
    "spinning": {"wait": "spin"},
    "sleeping-joined": {"wait": "sleep", "join": "ids"},
    "spinning-joined": {"wait": "spin", "join": "ids"},
}


def kill_a_lossless_producer(remote: NewRemote, name: str, counted: Counted, seed: int, options: Any) -> None:
    """One of two readers kills it after some packets; both must have everything."""
    chance = random.Random(seed)
    size = PAGE * chance.choice([1, 2, 16])
    producer = start_producer(remote, name, counted, lossless=True)
    killer, other = (start_reader(remote, name, buffer_size=size, **options) for _ in range(2))
    other.begin("take_all(reader)")
    killer.begin("kill_after(count, pid)", count=chance.randrange(1, 2000), pid=producer.pid)
    producer.begin("append_until_told()")
    for reader in (killer, other):
        assert_has_all(reader.result(), counted)
        assert reader.ask("reader.end_reason") == "producer died"
    producer.wait_end()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_everything_that_a_killed_producer_had_appended_arrives(
    remote: NewRemote, producer_name: str, counted: Counted, seed: int, options: Any
) -> None:
    kill_a_lossless_producer(remote, producer_name, counted, seed, options)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(100, 160), range(160, 220)], ids=["private", "joined"])
def test_everything_arrives_at_whatever_moment_the_producer_is_killed(
    nursery: Nursery, producer_name: str, tmp_path: Path, seeds: range
) -> None:
    join = {"join": "ids"} if seeds.start == 160 else {}
    for seed in seeds:
        with contextlib.ExitStack() as cleaning:
            counted = cleaning.enter_context(contextlib.closing(Counted(tmp_path / f"{seed}")))

            def fork(cleaning: contextlib.ExitStack = cleaning) -> Remote:
                return cleaning.enter_context(contextlib.closing(nursery.fork()))

            kill_a_lossless_producer(fork, producer_name, counted, seed, join)


@pytest.mark.parametrize("seed", range(4))
def test_packets_that_a_killed_producer_dropped_are_told_and_no_others_are_missing(
    remote: NewRemote, producer_name: str, counted: Counted, seed: int
) -> None:
    chance = random.Random(seed)
    producer = start_producer(remote, producer_name, counted)
    with connect(producer_name, buffer_size=PAGE) as reader:
        producer.begin("append_until_told()")
        found = []
        for _ in range(chance.randrange(1, 20)):
            buffer = reader.next_buffer()
            assert buffer is not None
            found += [(number_of(bytes(packet)), packet.dropped) for packet in buffer]
            counted.wait_for(found[-1][0] + chance.randrange(4 * PER_PAGE))  # now and then so slow that it must drop
        producer.kill()
        found += [(number_of(bytes(packet)), packet.dropped) for packet in reader]
        following = 0
        for number, dropped in found:
            assert number == following + dropped
            following = number + 1
        lost = reader.ledger().dropped
        assert sum(dropped for _, dropped in found) <= lost
        assert counted.appended <= len(found) + lost <= counted.appended + 1
        assert reader.end_reason == "producer died"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_producer_killed_in_the_native_loop_leaves_a_gapless_stream(
    remote: NewRemote, producer_name: str, tmp_path: Path, seed: int, wait: str
) -> None:
    chance, cycle = random.Random(seed), 1009
    (tmp_path / "lab.pcap").write_bytes(pcap([Record(numbered(number), 0, 60) for number in range(cycle)]))
    producer = remote()
    producer.do("producer = Producer(name, lossless=True)", name=producer_name)
    producer.do("source = FileSource([path])", path=str(tmp_path / "lab.pcap"))
    killer = start_reader(remote, producer_name, wait=wait, buffer_size=16 * PAGE)
    joined = [start_reader(remote, producer_name, join="g", buffer_size=PAGE) for _ in range(2)]
    killer.begin("kill_after(count, pid)", count=chance.randrange(1, 20_000), pid=producer.pid)
    for one in joined:
        one.begin("take_all(reader)")
    producer.begin("producer.publish(source, loops=0)")
    streams = [one.result() for one in (killer, *joined)]
    for found in streams:
        assert found == [number % cycle for number in range(len(found))]
    assert streams[1] == streams[2]
    assert all(one.ask("reader.end_reason") == "producer died" for one in (killer, *joined))


@pytest.mark.parametrize("wait", ["sleep", "spin"])
def test_reader_that_waits_for_an_idle_producer_sees_it_die(
    remote: NewRemote, producer_name: str, counted: Counted, wait: str
) -> None:
    producer = start_producer(remote, producer_name, counted)
    reader = start_reader(remote, producer_name, wait=wait, timeout_ms=0)
    producer.do("for number in range(5): producer.append(numbered(number))")
    reader.begin("take_all(reader)")
    producer.kill()
    assert reader.result() == list(range(5))  # they were never assigned: read from the store
    assert reader.ask("reader.end_reason") == "producer died"


def test_reader_that_holds_both_buffers_reads_on_after_the_producers_death(
    remote: NewRemote, producer_name: str, counted: Counted
) -> None:
    producer = start_producer(remote, producer_name, counted)
    with connect(producer_name, buffer_size=PAGE) as reader:
        producer.do("for number in range(2 * 43 + 7): producer.append(numbered(number))")
        producer.kill()
        assert take_all(reader) == list(range(2 * PER_PAGE))
        assert (reader.ledger().dropped, reader.end_reason) == (7, "producer died")


def test_requests_to_a_killed_producer_are_errors_and_the_packets_are_there_still(
    remote: NewRemote, producer_name: str, counted: Counted
) -> None:
    producer = start_producer(remote, producer_name, counted)
    with connect(producer_name) as reader:
        producer.do("producer.append(numbered(0))")
        producer.kill()
        for request in (reader.stats, reader.rotate, reader.flush, lambda: reader.set_filter("tcp")):
            with pytest.raises(ControlError, match="the producer closed the connection"):
                request()
        assert take_all(reader) == [0]


# ---- a reader is killed ---------------------------------------------------------------------------------------------


def wait_until_gone(control: Connection, pid: int) -> None:
    """Ask for statistics until no reader of that process is there; they add up at every call."""
    while True:
        found = control.stats()
        assert all(adds_up(one) for one in (*found.descriptors, found.closed))
        if pid not in [reader.pid for one in found.descriptors for reader in one.readers]:
            return


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("join", [None, "ids"], ids=["private", "joined"])
def test_readers_that_live_lose_nothing_when_another_is_killed(
    remote: NewRemote, producer_name: str, counted: Counted, seed: int, join: str | None
) -> None:
    producer = start_producer(remote, producer_name, counted, lossless=True, linger_s=None)
    options = {"buffer_size": PAGE, "join": join}
    victim, *others = (start_reader(remote, producer_name, **options) for _ in range(3))
    with Connection(producer_name) as control:
        for other in others:
            other.begin("take_all(reader)")
        victim.begin("die_after(count)", count=random.Random(seed).randrange(1, 2000))
        producer.begin("append_until_told()")
        victim.wait_end()
        wait_until_gone(control, victim.pid)
        counted.wait_for(counted.appended + 5 * PER_PAGE)  # a debt of the dead would hold the producer up for ever
        found = control.stats()
        assert len(found.descriptors) == len(segments(producer_name)) == (1 if join else 2)
        closed = found.closed
        assert closed.accepted == closed.delivered + closed.abandoned
        assert (closed.abandoned > 0) == (join is None)
        counted.tell_to_stop()
        producer.result()
        producer.do("producer.close()")
    for other in others:
        assert other.result() == list(range(counted.appended))
        assert other.ask("reader.end_reason") == "closed"
        ledger = other.ask("reader.ledger()")
        assert adds_up(ledger)
        assert (ledger.received, ledger.delivered) == (counted.appended, counted.appended)


def test_packets_of_the_last_reader_are_abandoned_when_it_is_killed(remote: NewRemote, producer_name: str) -> None:
    with Producer(producer_name) as producer, Connection(producer_name) as control:
        victim = start_reader(remote, producer_name, buffer_size=PAGE)
        for number in range(PER_PAGE + 5):
            producer.append(numbered(number))
        assert victim.ask("take(reader, 43)") == list(range(PER_PAGE))
        victim.kill()
        wait_until_gone(control, victim.pid)
        found = control.stats()
        assert found.descriptors == []
        closed = found.closed
        assert (closed.accepted, closed.delivered, closed.abandoned) == (PER_PAGE + 5, 0, PER_PAGE + 5)
        assert segments(producer_name) == []


def test_packets_that_a_killed_reader_had_acknowledged_are_delivered(remote: NewRemote, producer_name: str) -> None:
    with Producer(producer_name) as producer, Connection(producer_name) as control:
        victim = start_reader(remote, producer_name, buffer_size=PAGE, timeout_ms=0)
        for number in range(PER_PAGE + 5):
            producer.append(numbered(number))
        victim.do("take(reader, 43)")
        victim.do("assert reader.next_buffer(timeout=0) is None")  # which gives the 43 back
        victim.kill()
        wait_until_gone(control, victim.pid)
        closed = control.stats().closed
        assert (closed.accepted, closed.delivered, closed.abandoned) == (PER_PAGE + 5, PER_PAGE, 5)


def test_packets_of_a_group_are_abandoned_only_with_its_last_reader(remote: NewRemote, producer_name: str) -> None:
    with Producer(producer_name) as producer, Connection(producer_name) as control:
        first, last = (start_reader(remote, producer_name, join="g", buffer_size=PAGE) for _ in range(2))
        for number in range(PER_PAGE + 5):
            producer.append(numbered(number))
        first.kill()
        wait_until_gone(control, first.pid)
        (ledger,) = control.stats().descriptors
        assert (ledger.abandoned, ledger.buffered) == (0, PER_PAGE + 5)
        last.kill()
        wait_until_gone(control, last.pid)
        assert control.stats().closed.abandoned == PER_PAGE + 5


def test_buffer_is_free_at_once_when_the_reader_that_owed_it_is_killed(remote: NewRemote, producer_name: str) -> None:
    with Producer(producer_name) as producer, Connection(producer_name) as control:
        victim = start_reader(remote, producer_name, join="g", buffer_size=PAGE, timeout_ms=0)
        with connect(producer_name, join="g") as reader:
            for number in range(2 * PER_PAGE + 1):
                producer.append(numbered(number))
            for _ in range(2):
                assert reader.next_buffer(timeout=0) is not None
            assert reader.next_buffer(timeout=0) is None
            producer.append(numbered(0))  # the victim has both buffers still
            assert control.stats().descriptors[0].dropped == 2
            victim.kill()
            wait_until_gone(control, victim.pid)
            producer.append(numbered(7))
            (ledger,) = control.stats().descriptors
            assert (ledger.dropped, ledger.delivered, ledger.buffered) == (2, 2 * PER_PAGE, 1)


def test_readers_killed_one_after_the_other_cost_the_producer_no_file_descriptor(
    remote: NewRemote, producer_name: str, counted: Counted
) -> None:
    producer = start_producer(remote, producer_name, counted)
    with Connection(producer_name) as control:
        control.stats()
        before = producer.fds
        producer.begin("append_until_told()")
        for seed in range(6):
            victim = start_reader(remote, producer_name, buffer_size=PAGE, join=random.Random(seed).choice([None, "g"]))
            victim.begin("die_after(count)", count=seed + 1)
            victim.wait_end()
            wait_until_gone(control, victim.pid)
        counted.tell_to_stop()
        producer.result()
        while producer.fds > before:
            control.stats()
        assert control.stats().descriptors == []
        assert segments(producer_name) == []


def test_reader_killed_in_its_sleep_is_gone_and_the_others_are_woken(remote: NewRemote, producer_name: str) -> None:
    with Producer(producer_name) as producer, Connection(producer_name) as control:
        victim, other = (start_reader(remote, producer_name, join="g") for _ in range(2))
        for reader in (victim, other):
            reader.begin("take(reader, 1)")
        victim.kill()
        wait_until_gone(control, victim.pid)
        producer.append(numbered(3))
        assert other.result() == [3]
        other.do("reader.close()")


# ---- killed at start-up, and while readers connect ------------------------------------------------------------------


def assert_starts_anew(name: str, run_dir: Path) -> None:
    """The next producer of that name works, and leaves nothing behind, of itself or of the dead."""
    with Producer(name) as producer, connect(name) as reader:
        producer.append(numbered(1))
        reader.rotate()
        buffer = reader.next_buffer()
        assert buffer is not None
        assert [number_of(bytes(packet)) for packet in buffer] == [1]
        buffer.acknowledge()
    assert segments(name) == []
    assert list(run_dir.iterdir()) == []


def died(process: Remote) -> bool:
    """Whether it was killed in the middle of what it had begun."""
    try:
        process.result()
    except (EOFError, ConnectionResetError):
        process.wait_end()
        return True
    return False


@pytest.mark.slow
def test_producer_killed_at_any_call_of_its_start_leaves_its_name_to_the_next(
    remote: NewRemote, producer_name: str, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for moment in itertools.count(1):
        process = remote()
        process.do(SABOTAGE)
        process.begin(START_PROFILED, name=producer_name, moment=moment)
        if not died(process):
            break
        assert_starts_anew(producer_name, run_dir)
    assert moment > 15
    assert caplog.messages == []


START_PROFILED = """
left[0] = moment
sys.setprofile(profile)
producer = Producer(name)
sys.setprofile(None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("join", [None, "ids"], ids=["private", "joined"])
def test_producer_killed_at_any_call_while_a_reader_connects_leaves_an_error_or_an_end(
    remote: NewRemote, producer_name: str, run_dir: Path, caplog: pytest.LogCaptureFixture, join: str | None
) -> None:
    outcomes = []
    for moment in itertools.count(1):
        process = remote()
        process.do(SABOTAGE)
        process.do("producer = Producer(name)", name=producer_name)
        process.do("left[0] = moment", moment=moment)
        outcomes.append(outcome_of_connecting(process, producer_name, join))
        if outcomes[-1] == "alive":
            break
        process.wait_end()
        left = len(segments(producer_name))
        caplog.clear()
        assert_starts_anew(producer_name, run_dir)
        said = f"{producer_name}: removed 1 segment of a producer that was killed; 0 packets in there were not"
        assert [message.startswith(said) for message in caplog.messages] == [True] * left
    assert outcomes.count("refused") > 20
    assert outcomes[-1] == "alive"


def outcome_of_connecting(process: Remote, name: str, join: str | None) -> str:
    try:
        reader = connect(name, join=join)
    except (ControlError, ProducerNotFound):
        return "refused"
    with reader:
        try:
            if process.ask("left[0] > 0"):
                return "alive"
        except (EOFError, ConnectionError):
            pass
        assert take_all(reader) == []
        assert reader.end_reason == "producer died"
        return "died later"


@pytest.mark.parametrize("seed", range(3))
def test_producer_killed_while_it_appends_and_readers_come_and_go_harms_no_reader(
    remote: NewRemote, producer_name: str, counted: Counted, seed: int
) -> None:
    producer = start_producer(remote, producer_name, counted)
    with connect(producer_name, buffer_size=1 << 20) as reader:
        crowd = [remote() for _ in range(2)]
        for process in crowd:
            process.begin(COMING_AND_GOING, name=producer_name)
        producer.begin("append_until_told()")
        counted.wait_for(random.Random(seed).randrange(1, 8000))
        producer.kill()
        assert_has_all(take_all(reader), counted)
        for process in crowd:
            with pytest.raises((ControlError, ProducerNotFound)):
                process.result()
        Producer(producer_name).close()
        assert segments(producer_name) == []


COMING_AND_GOING = """
while True:
    reader = connect(name, buffer_size=4096)
    assert reader.end_reason is None
    reader.close()
"""


def test_producer_that_ends_while_a_reader_connects_gives_it_what_it_had_appended(
    producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It was answered, so it is one of the producer's readers, and packets that came since are its own.
    with Producer(producer_name, linger_s=0) as producer:

        def map_late(fd: int, **options: Any) -> Any:
            producer.append(numbered(1))
            producer.close()
            return map_segment(fd, **options)

        monkeypatch.setattr("zbuf.consumer.reading.reader.map_segment", map_late)
        with connect(producer_name) as reader:
            assert take_all(reader) == [1]
            assert reader.end_reason == "closed"


# ---- what is left behind --------------------------------------------------------------------------------------------


def removal(caplog: pytest.LogCaptureFixture, name: str) -> tuple[int, int]:
    """The segments and the packets that the only warning counts."""
    (message,) = caplog.messages
    found = re.match(
        rf"{re.escape(name)}: removed (\d+) segments? of a producer that was killed; (\d+) packets", message
    )
    assert found is not None, message
    return int(found[1]), int(found[2])


@pytest.mark.parametrize("seed", range(4))
def test_next_start_counts_exactly_what_a_busy_producer_left_unread(
    remote: NewRemote, producer_name: str, counted: Counted, run_dir: Path, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)
    producer = start_producer(remote, producer_name, counted)
    options: list[dict[str, Any]] = [{"buffer_size": PAGE}, {"timeout_ms": 1}, {"join": "g"}, {"filter": "len < 10"}]
    with contextlib.ExitStack() as cleaning:
        readers = [cleaning.enter_context(connect(producer_name, **one)) for one in options]
        producer.begin("append_until_told()")
        counted.wait_for(chance.randrange(1, 5000))
        producer.kill()
        assert len(segments(producer_name)) == len(readers)
        assert_starts_anew(producer_name, run_dir)
        found = [take_all(reader) for reader in readers]
        assert removal(caplog, producer_name) == (len(readers), sum(len(one) for one in found))
        assert found[0] == list(range(min(2 * PER_PAGE, len(found[0]))))
        for one in found[1:3]:
            assert_has_all(one, counted)
        assert found[3] == []


@pytest.mark.parametrize("seed", range(4))
def test_next_start_counts_no_packet_that_was_known_to_be_acknowledged(
    remote: NewRemote, producer_name: str, counted: Counted, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    chance = random.Random(seed)
    producer = start_producer(remote, producer_name, counted)
    with connect(producer_name, buffer_size=PAGE, timeout_ms=0) as reader:
        for _ in range(chance.randrange(1, 8)):
            producer.do(f"for number in range({chance.randrange(1, 2 * PER_PAGE)}): producer.append(numbered(number))")
            if chance.random() < 0.5:
                reader.rotate()
            for _ in range(chance.randrange(3)):
                reader.next_buffer(timeout=0)
        left = producer.ask("producer.stats()").descriptors[0].buffered
        producer.kill()
        Producer(producer_name).close()
        assert removal(caplog, producer_name) == (1, left)


def test_leftovers_of_several_run_directories_go_and_the_living_keep_theirs(
    remote: NewRemote, producer_name: str, tmp_path: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = str(run_dir / "b")
    with contextlib.closing(Counted(tmp_path / "1")) as one, contextlib.closing(Counted(tmp_path / "2")) as two:
        dead = start_producer(remote, producer_name, one)
        living = start_producer(remote, producer_name, two, run_dir=elsewhere)
        with connect(producer_name) as of_dead, connect(producer_name, run_dir=elsewhere, buffer_size=1 << 20) as other:
            dead.begin("append_until_told()")
            living.begin("append_until_told()")
            one.wait_for(500)
            dead.kill()
            assert len(segments(producer_name)) == 2
            Producer(producer_name).close()
            assert len(segments(producer_name)) == 1
            assert removal(caplog, producer_name) == (1, len(take_all(of_dead)))
            two.wait_for(two.appended + 1)
            two.tell_to_stop()
            living.result()
            living.do("producer.stop(); import threading; threading.Thread(target=producer.close, daemon=True).start()")
            assert take_all(other) == list(range(two.appended))
            assert other.end_reason == "closed"


def test_producer_that_closed_while_readers_hold_its_buffers_leaves_nothing_to_the_next(
    remote: NewRemote, producer_name: str, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    producer = start_producer(remote, producer_name, counted, linger_s=0)
    with connect(producer_name) as reader:
        producer.do("producer.append(numbered(0)); producer.close()")
        producer.kill()
        Producer(producer_name).close()
        assert caplog.messages == []
        assert take_all(reader) == [0]
        assert reader.end_reason == "closed"


def test_next_start_counts_the_packets_of_each_of_several_killed_producers(
    remote: NewRemote, producer_name: str, counted: Counted, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as cleaning:
        producers = []
        for number, elsewhere in enumerate(("b", "c", "d"), start=1):
            directory = str(run_dir / elsewhere)
            producers.append(start_producer(remote, producer_name, counted, run_dir=directory))
            cleaning.enter_context(connect(producer_name, run_dir=directory))
            producers[-1].do(f"for number in range({number}): producer.append(numbered(number))")
        for producer in producers:
            producer.kill()
        Producer(producer_name).close()
        assert removal(caplog, producer_name) == (3, 1 + 2 + 3)
