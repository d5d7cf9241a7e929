"""The histogram: what it tells of values is compared with the values themselves."""

import math
import random

import numpy
import pytest

from zbuf.shared.histogram import Histogram

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)
LARGEST = 2**63 - 1


def some_values() -> list[int]:
    """As many in one decade as in another; powers of 2 and their neighbours."""
    chance = random.Random(1)
    edges = [2**power + step for power in range(63) for step in (-1, 0, 1)]
    return [int(10 ** chance.uniform(0, 18.9)) for _ in range(20_000)] + edges + [0, LARGEST]


def histogram_of(values: list[int], **options: int) -> Histogram:
    histogram = Histogram(**options)
    histogram.add(numpy.array(values, numpy.int64))
    return histogram


def exact(values: list[int], share: float) -> int:
    """The value that a share of the values does not exceed, by the nearest rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@pytest.mark.parametrize("bits", [2, 6, 11, 16])
@pytest.mark.parametrize("share", SHARES)
def test_value_at_a_share_is_the_exact_one_within_the_width_of_its_bucket(bits: int, share: float) -> None:
    values = some_values()
    found, wanted = histogram_of(values, bits=bits).value_at(share), exact(values, share)
    assert 0 <= found - wanted <= wanted * 2.0 ** (1 - bits)


def test_three_significant_digits_are_kept_by_default() -> None:
    for value in some_values():
        ((highest, count),) = histogram_of([value]).buckets()
        assert count == 1
        assert 0 <= highest - value <= value / 1000


def test_buckets_are_in_order_and_have_every_value_once() -> None:
    values = some_values()
    histogram = histogram_of(values)
    buckets = histogram.buckets()
    assert buckets == sorted(buckets)
    lowest = -1
    for highest, count in buckets:
        assert count == sum(lowest < value <= highest for value in values)
        lowest = highest
    assert sum(count for _, count in buckets) == histogram.total == len(values)


def test_largest_value_is_exact_and_no_share_is_above_it() -> None:
    histogram = histogram_of([1, 1_000_001])
    assert (histogram.max, histogram.value_at(1.0)) == (1_000_001, 1_000_001)
    assert histogram_of([LARGEST]).value_at(0.5) == LARGEST


def test_empty_histogram_tells_nothing() -> None:
    histogram = histogram_of([])
    assert (histogram.total, histogram.max, histogram.value_at(0.5), histogram.buckets()) == (0, 0, 0, [])


def test_value_below_zero_counts_as_zero() -> None:
    histogram = histogram_of([-5, -(2**63), 0])
    assert (histogram.buckets(), histogram.max) == ([(0, 3)], 0)


def test_values_are_added_one_after_the_other_or_every_second_one() -> None:
    histogram = Histogram()
    for part in numpy.arange(10), numpy.arange(10)[::2]:
        histogram.add(part)
    assert histogram.total == 15


@pytest.mark.parametrize("bits", [-1, 1, 17])
def test_bits_that_make_no_sense_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"{bits} bits"):
        Histogram(bits=bits)
