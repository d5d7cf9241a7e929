"""zbuf top: how fast counts grow."""

from typing import Any

import pytest
from support.statistics import descriptor, interface, producer, reader

from zbuf.consumer.tools.top.rates import HISTORY, Compared, History, compare, is_slow
from zbuf.shared.control.statistics import (
    Statistics,
)

pytestmark = pytest.mark.usefixtures("run_dir")


def test_rates_are_what_counts_grew_by_over_the_producers_own_clock() -> None:
    before = producer(
        10.0, descriptor(1, reader(2, delivered=5), received=100, accepted=50), offered=100, live=[interface(taken=100)]
    )
    now = producer(
        12.0,
        descriptor(1, reader(2, delivered=25, stalls=1, stalled=6), received=300, accepted=150, dropped=6),
        offered=400,
        live=[interface(taken=400, dropped_by_kernel=3)],
    )
    found = compare(before, now)
    assert (found.interval_s, found.rates["offered"]) == (2.0, 150.0)
    (one,) = found.descriptors
    assert (one.rates["received"], one.rates["accepted"], one.rates["dropped"]) == (100.0, 50.0, 3.0)
    assert dict(one.readers[0].rates) == {"delivered": 10.0, "stalls": 0.5, "stalled": 3.0}
    (live,) = found.live
    assert (live.rates["taken"], live.rates["dropped_by_kernel"]) == (150.0, 1.5)


def test_first_statistics_have_no_rates() -> None:
    found = compare(None, producer(10.0, descriptor(1, reader(), received=100), offered=100, live=[interface()]))
    assert not any([found.rates, found.interval_s, found.live[0].rates, found.descriptors[0].rates])
    assert found.descriptors[0].readers[0].rates == {}


@pytest.mark.parametrize("change", [{"epoch": 2}, {"pid": 8}, {"uptime_s": 9.0}, {"uptime_s": 10.0}], ids=str)
def test_producer_that_began_anew_has_no_rates(change: dict[str, Any]) -> None:
    one = descriptor(1, reader(2, delivered=9), received=1000)
    more: dict[str, Any] = {"uptime_s": 11.0, "offered": 9, "descriptors": [one]}
    now = producer(**more | change)
    found = compare(producer(10.0, one, offered=5), now)
    assert not any([found.rates, found.descriptors[0].rates, found.descriptors[0].readers[0].rates])


def test_ledger_that_began_anew_has_no_rates_and_takes_them_from_nobody_else() -> None:
    before = producer(1.0, descriptor(1, received=100, accepted=100), descriptor(2, received=100), offered=100)
    now = producer(2.0, descriptor(1, received=30, accepted=30), descriptor(2, received=150), offered=150)
    found = compare(before, now)
    assert [dict(one.rates).get("received") for one in found.descriptors] == [None, 50.0]
    assert found.rates["offered"] == 50.0


def test_descriptor_and_reader_that_are_new_have_no_rates() -> None:
    before = producer(1.0, descriptor(1, reader(2)))
    now = producer(2.0, descriptor(1, reader(2), reader(5)), descriptor(3, reader(4)))
    first, second = compare(before, now).descriptors
    assert [bool(one.rates) for one in (first, second)] == [True, False]
    assert [bool(one.rates) for one in (*first.readers, *second.readers)] == [True, False, False]


def test_reader_is_slow_only_where_packets_were_dropped_since_it_held_a_buffer() -> None:
    before = producer(1.0, descriptor(1, reader(2), reader(3), dropped=5))
    now = producer(2.0, descriptor(1, reader(2, holding=1), reader(3, holding=2, stalled=7), dropped=12))
    readers = compare(before, now).descriptors[0].readers
    assert [is_slow(one) for one in readers] == [False, True]


def accepted(history: History, *statistics: Statistics) -> list[float | None]:
    """The history after some answers."""
    before = None
    found: Compared | None = None
    for now in statistics:
        found = history.note(compare(before, now))
        before = now
    assert found is not None
    return list(found.descriptors[0].history)


def test_history_has_the_last_rates_and_begins_anew_with_the_producer() -> None:
    growing = [producer(at, descriptor(1, accepted=at * at)) for at in range(1, HISTORY + 5)]
    history = History()
    assert accepted(history, *growing) == [2 * at + 1 for at in range(4, HISTORY + 4)]
    assert accepted(history, producer(1.0, descriptor(1, accepted=3), epoch=2)) == []


def test_history_has_a_gap_where_the_ledger_began_anew() -> None:
    counts = [(1, 10), (2, 20), (3, 5), (4, 9)]
    assert accepted(History(), *(producer(at, descriptor(1, accepted=count)) for at, count in counts)) == [10, None, 4]
