"""Readers that come and go while packets flow, by the dozen: every ledger adds up at every step."""

import random
import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from soak import soaking
from support.network import needs_namespace
from support.processes import Lab, Remote
from support.rig import adds_up

from zbuf.consumer import connect
from zbuf.shared.errors import Refused


def check(lab: Lab) -> list[Any]:
    """The descriptors, whose ledgers add up."""
    found = lab.descriptors()
    for one in found:
        ledger = msgspec.structs.asdict(one)
        assert adds_up(ledger), ledger
    return found


@pytest.mark.slow
def test_64_readers_join_and_leave_at_random_and_every_ledger_adds_up(lab: Lab, remote: Callable[[], Remote]) -> None:
    chance = random.Random(3)
    homes = [remote() for _ in range(4)]
    for home in homes:
        home.do("readers = {}", number=0)
    there: list[tuple[Remote, int]] = []
    for number in range(200):
        home = chance.choice(homes)
        if len(there) < 64 and chance.random() < 0.7:
            options: dict[str, Any] = {"buffer_size": chance.choice([4096, 65536]), "timeout_ms": 0}
            options |= chance.choice([{}, {"filter": "less 100"}, {"snaplen": 40}, {"immediate": True}])
            join = chance.choice([None, "one", "two"])
            if join is not None:
                options = {"join": join}
            home.do("readers[n] = connect(name, **options)", n=number, name=lab.name, options=options)
            there.append((home, number))
        elif there:
            home, gone = there.pop(chance.randrange(len(there)))
            home.do("readers.pop(n).close()", n=gone)
        for home, reading in chance.sample(there, min(3, len(there))):
            home.do("buffer = readers[n].next_buffer(timeout=0)", n=reading)
        lab.append(chance.randint(1, 200), size=chance.choice([60, 900]))
        check(lab)
    assert len(there) > 40
    for home in homes:
        home.kill()
    lab.wait_descriptors(0)


@pytest.mark.slow
def test_64_private_descriptors_and_not_one_more(lab: Lab) -> None:
    readers = [connect(lab.name, buffer_size=4096) for _ in range(64)]
    with pytest.raises(Refused, match=r"^all 64 descriptors of this producer are in use"):
        connect(lab.name, buffer_size=4096)
    numbers = lab.append(10)
    for reader in readers:
        reader.rotate()
        buffer = reader.next_buffer(timeout=0)
        assert buffer is not None
        assert len(buffer) == len(numbers)
    assert len(check(lab)) == 64
    for reader in readers:
        reader.close()
    lab.wait_descriptors(0)


def test_stopped_reader_delays_neither_the_producer_nor_the_others(lab: Lab, remote: Callable[[], Remote]) -> None:
    stopped = remote()
    stopped.do("reader = connect(name, buffer_size=4096)", name=lab.name)
    with connect(lab.name) as reader:
        stopped.signal(signal.SIGSTOP)
        numbers = lab.append(2000)
        reader.rotate()
        buffer = reader.next_buffer(timeout=0)
        assert buffer is not None
        assert len(buffer) == len(numbers)
        slow, quick = sorted(check(lab), key=lambda one: -one.dropped)
        assert (slow.readers[0].pid, quick.dropped) == (stopped.pid, 0)
        assert (slow.readers[0].stalls, slow.readers[0].stalled) == (1, slow.dropped)
        assert slow.dropped > 1900


def test_reader_that_goes_on_is_not_evicted_however_slow(remote: Callable[[], Remote], producer_name: str) -> None:
    producer = remote()
    producer.do(
        "producer = Producer(name, linger_s=0, limits=Limits(evict_after_s=0.05), buffer_size=4096)", name=producer_name
    )
    with connect(producer_name, join="g") as quick, connect(producer_name, join="g") as slow:
        for _ in range(30):
            producer.do("for n in range(200): producer.append(numbered(n))")
            while quick.next_buffer(timeout=0) is not None:
                pass
            assert slow.next_buffer(timeout=1) is not None  # one at a time
        assert producer.ask("producer.stats().evicted") == 0


@needs_namespace
@pytest.mark.slow
def test_nothing_grows_in_a_short_soak() -> None:
    with soaking(seed=2) as soak:
        for _ in range(9):
            soak.round()
        assert soak.verdict() == []
