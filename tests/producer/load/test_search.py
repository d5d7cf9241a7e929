"""The search for the NDR and the PDR, on made-up consumers."""

import json
import math
import random
from dataclasses import replace
from itertools import cycle, repeat

import pytest

from zbuf.producer.load.sweep.figures import Figure
from zbuf.producer.load.sweep.remaining import Remaining
from zbuf.producer.load.sweep.results import Results
from zbuf.producer.load.sweep.search import Answer, Run, Try, search_rates
from zbuf.producer.load.sweep.trial import Trial


def device(speed: float, top: float = 1e7, hiccups: float = 0.0, consumers: int = 1) -> Run:
    """Trials of made-up consumers behind a made-up producer; so many of them, by chance, go wrong."""
    chance = random.Random(1)

    def trial(rate: float | None) -> Trial:
        offered = min(top, rate or top)
        dropped = consumers * math.ceil(max(0, offered - speed)) + 10 * (chance.random() < hiccups)
        return Trial(rate, round(offered), 60 * round(offered), 1.0, dropped, 0, 0.0, {}, {}, consumers)

    return trial


def searched(
    run: Run, precision: float = 0.01, tries: int = 1, loss: float | None = None
) -> tuple[list[Trial], list[Try]]:
    """The trials of a search, and its tries."""
    trials: list[Trial] = []

    def noted(rate: float | None) -> Trial:
        trials.append(run(rate))
        return trials[-1]

    return trials, list(search_rates(noted, precision, tries, loss))


def rate_of(answer: Answer | None) -> float:
    assert answer is not None
    return answer.trial.rate


@pytest.mark.parametrize("speed", [50, 12_345, 999_999, 7_654_321, 9_990_000])
@pytest.mark.parametrize("precision", [0.001, 0.01, 0.1])
def test_the_speed_of_a_device_is_found(speed: float, precision: float) -> None:
    trials, (only,) = searched(device(speed), precision)
    assert speed * (1 - precision) - 1 <= rate_of(only.ndr) <= speed
    assert len(trials) < 40


@pytest.mark.parametrize("loss", [0.001, 0.02, 0.5])
def test_the_rate_at_a_tolerated_loss_is_found(loss: float) -> None:
    _, (only,) = searched(device(50_000), 0.002, loss=loss)
    assert rate_of(only.pdr) == pytest.approx(50_000 / (1 - loss), rel=0.002)
    assert rate_of(only.pdr) * (1 - loss) <= 50_001
    assert rate_of(only.ndr) <= 50_000


def test_the_speed_of_several_consumers_is_found_though_they_lose_more_than_was_sent() -> None:
    trials, (only,) = searched(device(20_000, consumers=3))
    assert trials[0].dropped > trials[0].packets
    assert 0.99 < trials[0].lost_share < 1
    assert 19_800 <= rate_of(only.ndr) <= 20_000


def test_a_device_that_loses_nothing_needs_one_trial() -> None:
    trials, (only,) = searched(device(2e7), tries=3)
    assert [trial.asked for trial in trials] == [None]
    assert only.ndr == Answer(trials[0], by_producer=True)


@pytest.mark.parametrize("speed", [0, 0.5])
def test_a_device_that_takes_nothing_has_no_rate(speed: float) -> None:
    _, tries = searched(device(speed), tries=2)
    assert [one.ndr for one in tries] == [None, None]


def test_a_device_that_is_much_slower_after_the_first_trial_is_found() -> None:
    fast, slow = device(1e6), device(1000)
    _, (only,) = searched(lambda rate: fast(rate) if rate is None else slow(rate))
    assert 990 <= rate_of(only.ndr) <= 1000


def test_a_device_that_is_much_faster_after_the_first_trial_is_found() -> None:
    slow, fast = device(1000), device(1e6)
    _, (only,) = searched(lambda rate: slow(rate) if rate is None else fast(rate))
    assert 990_000 <= rate_of(only.ndr) <= 1e6


@pytest.mark.parametrize("hiccups", [0.1, 0.25])
def test_hiccups_do_not_pass_for_the_limit(hiccups: float) -> None:
    _, tries = searched(device(50_000, hiccups=hiccups), tries=5)
    assert all(49_000 <= rate_of(one.ndr) <= 50_000 for one in tries)


def test_a_trial_in_which_the_producer_was_late_is_void() -> None:
    """Every second trial is late, and loses packets by that, at whatever rate."""
    consumer, late = device(50_000), cycle([True, False])

    def run(rate: float | None) -> Trial:
        trial = consumer(rate)
        return replace(trial, late=trial.packets // 50, dropped=trial.dropped + 100) if rate and next(late) else trial

    trials, (only,) = searched(run)
    assert 49_500 <= rate_of(only.ndr) <= 50_000
    assert any(trial.is_void(0.01) for trial in trials)


def test_late_packets_do_no_harm_if_nothing_is_lost() -> None:
    trial = replace(device(50_000)(1000.0), late=900)
    assert not trial.is_void(0.01)
    assert replace(trial, dropped=1).is_void(0.01)
    assert not replace(trial, dropped=1, late=10).is_void(0.01)


def test_a_producer_that_can_not_keep_up_ends_the_search() -> None:
    """At top speed it is faster than at any rate, and drops packets."""

    def run(rate: float | None) -> Trial:
        packets = 1000 if rate is None else 500
        return Trial(rate, packets, 60 * packets, 1.0, 100 if rate is None else 0, 0, 0.0, {}, {})

    trials, tries = searched(run)
    assert len(trials) == 5
    results = Results(files=[], consumers=[], trial_s=1.0, precision=0.01, trials=trials, tries=tries)
    assert results.is_producers_limit
    assert rate_of(tries[0].ndr) == 500
    assert "nothing was lost at what the producer could offer" in results.verdict()


def test_a_producer_that_has_a_hiccup_does_not_end_the_search() -> None:
    consumer, hiccups = device(50_000), iter([False, True, *repeat(False, 100)])

    def run(rate: float | None) -> Trial:
        trial = consumer(rate)
        return replace(trial, packets=trial.packets // 2, dropped=0) if next(hiccups) else trial

    trials, tries = searched(run)
    assert 49_500 <= rate_of(tries[0].ndr) <= 50_000
    results = Results(files=[], consumers=[], trial_s=1.0, precision=0.01, trials=trials, tries=tries)
    assert json.loads(results.as_json())["limited_by"] == "consumer"


@pytest.mark.parametrize(
    ("found", "blur", "said"),
    [
        ([19_830, 19_960, 19_911], 0.001, "19,910 ± 70 packets/s (3 tries: 19,830 to 19,960)"),
        ([19_830, 19_960, 19_911], 0.05, "19,900 ± 500 packets/s (3 tries: 19,830 to 19,960)"),
        ([1_234_567], 0.01, "1,235,000 ± 7,000 packets/s (1 try: its spread is not known)"),
        ([3.14], 0.01, "3.14 ± 0.02 packets/s (1 try: its spread is not known)"),
        ([100, 200], 0.01, "150 ± 50 packets/s (2 tries: 100 to 200)"),
    ],
)
def test_a_rate_has_no_more_digits_than_its_spread_lets_stand(found: list[float], blur: float, said: str) -> None:
    assert str(Figure(found, blur)) == said


def test_the_time_left_shrinks_as_trials_and_searches_end() -> None:
    remaining = Remaining(searches=3, trial_s=10)
    assert remaining.seconds() == 240
    for _ in range(4):
        remaining.trial_over()
    assert remaining.seconds() == 200
    remaining.search_over()
    assert remaining.seconds() == 80  # two searches of four trials each
    remaining.trial_over()
    assert remaining.seconds() == 70
    assert str(remaining) == "about 70 s left"
    remaining.search_over(2)
    assert remaining.seconds() == 0
