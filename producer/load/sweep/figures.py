"""A rate that was found several times: its median, and no more digits than its spread lets stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """The answers of several searches for one rate, in packets per second."""

    found: Sequence[float]
    """One or more."""
    blur: float
    """What a search can't tell apart, as a share of the rate."""

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.found)

    @property
    def uncertainty(self) -> float:
        """Half the spread, or half of what one search can't tell apart if that is more; one digit, rounded up."""
        exact = max((max(self.found) - min(self.found)) / 2, self.blur * self.middle / 2, 1e-9)
        unit = _unit(exact)
        return math.ceil(exact / unit - 1e-9) * unit

    @property
    def rounded(self) -> float:
        """The median without the digits that the uncertainty denies."""
        unit = _unit(self.uncertainty)
        return round(self.middle / unit) * unit

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the rounded rate, its uncertainty, the ends of its spread, and each answer."""
        return {
            "pps": self.rounded,
            "uncertainty_pps": self.uncertainty,
            "lowest_pps": min(self.found),
            "highest_pps": max(self.found),
            "tries_pps": list(self.found),
        }

    def __str__(self) -> str:
        """Such as "19,900 ± 100 packets/s (3 tries: 19,830 to 19,960)"."""
        digits = max(0, -math.floor(math.log10(self.uncertainty)))
        rate = f"{self.rounded:,.{digits}f} ± {self.uncertainty:,.{digits}f} packets/s"
        if len(self.found) == 1:
            return f"{rate} (1 try: its spread is not known)"
        return f"{rate} ({len(self.found)} tries: {min(self.found):,.{digits}f} to {max(self.found):,.{digits}f})"


def _unit(value: float) -> float:
    """The power of ten of the first digit of a value above 0."""
    return float(10.0 ** math.floor(math.log10(value)))
