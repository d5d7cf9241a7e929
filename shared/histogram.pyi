"""A histogram of whole numbers in logarithmic buckets, as HdrHistogram has them (https://hdrhistogram.org)."""

from typing import final

import numpy
from numpy.typing import NDArray

@final
class Histogram:
    """Counts of values from 0 to 2**63 - 1, in buckets as wide as their highest bits tell."""

    total: int
    max: int
    def __init__(self, *, bits: int = 11) -> None: ...
    def add(self, values: NDArray[numpy.int64]) -> None: ...
    def value_at(self, share: float) -> int: ...
    def buckets(self) -> list[tuple[int, int]]: ...
