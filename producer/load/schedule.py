"""How fast a replay goes: tcpreplay's options, checked and made into a Pace."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Self

from zbuf.producer.sources.pace import Pace
from zbuf.shared.errors import ValueRefused

Stamp = Literal["file", "now"]

FASTEST = {"pps": 10**9, "mbps": 10**7, "multiplier": 10**6}
"""A packet per nanosecond, ten terabits per second, a day in a tenth of a second."""
SLOWEST = Fraction(1, 10**6)

DEFAULT_MAX_LAG_MS = 1.0

_NUMBER = re.compile(r"(\d{1,18}(?:\.\d{0,9})?(?:e\d{1,2})?)([kmg]?)", re.IGNORECASE)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_LONGEST_RAMP_S = 10**6
_FOR_EVER_S = 1e11


def parse_rate(text: str, *, least: Fraction = SLOWEST, most: int = FASTEST["pps"]) -> Fraction:
    """Read a number such as 200000, 0.5, 2e5, 200k or 1.5M.

    Raises:
        ValueRefused: the text is not a number, or the number is less than `least` or more than `most`.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueRefused(f"{text!r:.60} is not a rate: write a number, such as 200000, 0.5 or 1.5M")
    rate = Fraction(match[1]) * _FACTORS[match[2].lower()]
    if not least <= rate <= most:
        bounds = "0" if not least else f"{float(least):g}"
        raise ValueRefused(f"{text!r:.60} is out of range: give from {bounds} to {most:g}")
    return rate


@dataclass(frozen=True)
class Ramp:
    """A rate that goes from one value to another in some seconds, and stays there."""

    first: Fraction
    """Packets per second."""
    last: Fraction
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read FROM:TO:SECONDS.

        Raises:
            ValueRefused: the text is not a ramp, or both rates are 0, so that no packet would ever be due.
        """
        parts = text.split(":")
        if len(parts) != 3:
            raise ValueRefused(f"{text!r:.60} is not a ramp: write FROM:TO:SECONDS, such as 1k:100k:30")
        first, last = (parse_rate(part, least=Fraction(0)) for part in parts[:2])
        seconds = float(parse_rate(parts[2], most=_LONGEST_RAMP_S))
        if not first and not last:
            raise ValueRefused(f"{text!r:.60} goes from 0 to 0: give a rate above 0")
        return cls(first, last, seconds)


@dataclass(frozen=True)
class Schedule:
    """When packets are due: at once, which is top speed, unless one of the four rates is given.

    Raises:
        ValueRefused: two rates are given, or a value is out of its range.
    """

    pps: Fraction | None = None
    """Packets per second."""
    mbps: Fraction | None = None
    """Megabits (10**6) per second, of the packets' lengths on the wire."""
    multiplier: Fraction | None = None
    """How many times as fast as the packets were recorded; time goes on from the latest stamp so far."""
    ramp: Ramp | None = None
    one_at_a_time: bool = False
    """Each packet waits for Pace.allow()."""
    burst: int = 1
    """How many packets are due together; the mean rate stays the same."""
    duration_s: float | None = None
    """When to end, in seconds after the first packet."""
    max_gap_s: float | None = None
    """With `multiplier`: the longest wait between two packets."""
    stamp: Stamp = "file"
    """Packets carry their own times, or the moment at which they are offered."""
    max_lag_ms: float = DEFAULT_MAX_LAG_MS
    """A packet that is offered later than this after it was due counts as late, in milliseconds."""
    limit: int | None = None
    """How many packets to offer at most."""

    def __post_init__(self) -> None:
        given = [name for name in ("pps", "mbps", "multiplier", "ramp") if getattr(self, name) is not None]
        given += ["oneatatime"] if self.one_at_a_time else []
        if len(given) > 1:
            raise ValueRefused(f"--{given[0]} and --{given[1]} are two speeds: give one")
        for name, most in FASTEST.items():
            rate = getattr(self, name)
            if rate is not None and not SLOWEST <= rate <= most:
                raise ValueRefused(f"{name} {float(rate):g} is out of range: give from {float(SLOWEST):g} to {most:g}")
        if self.burst < 1:
            raise ValueRefused(f"burst {self.burst}: give 1 or more")
        if self.burst > 1 and not given:
            raise ValueRefused(f"bursts of {self.burst} need a rate: give one, such as --pps")
        if self.max_gap_s is not None and self.multiplier is None:
            raise ValueRefused("--max-gap needs recorded time: give --multiplier, 1 for as recorded")
        if not 0 < self.max_lag_ms < math.inf:
            raise ValueRefused(f"--max-lag {self.max_lag_ms:g}: give more than 0 milliseconds")
        if self.limit is not None and self.limit < 1:
            raise ValueRefused(f"--limit {self.limit}: give 1 packet or more")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise ValueRefused(f"duration {self.duration_s:g}: give more than 0 seconds")

    @classmethod
    def at(cls, packets_per_second: float, **options: Any) -> Self:
        """A schedule of so many packets per second; `options` are the other fields."""
        return cls(pps=Fraction(packets_per_second).limit_denominator(10**6), **options)

    def pace(self, clock: Callable[[], int] | None = None) -> Pace | None:
        """A new pace for one run, which has each packet wait until it is due; None if no packet has to wait.

        Args:
            clock: returns the time in nanoseconds; None for the machine's clock.
        """
        kind, ns_per = self._counted()
        ends = self.duration_s is not None or self.limit is not None
        if kind is None and not self.one_at_a_time and not ends and self.stamp == "file":
            return None
        return Pace(
            kind,
            ns_per=(ns_per.numerator, ns_per.denominator),
            ramp=None if self.ramp is None else (float(self.ramp.first), float(self.ramp.last), self.ramp.seconds),
            burst=self.burst,
            duration_ns=_nanoseconds(self.duration_s),
            max_gap_ns=_nanoseconds(self.max_gap_s),
            held=self.one_at_a_time,
            stamp=self.stamp == "now",
            late_after_ns=round(min(self.max_lag_ms, _FOR_EVER_S) * 1e6),
            limit=self.limit,
            clock=clock,
        )

    def _counted(self) -> tuple[Literal["packets", "bytes", "nanoseconds", "ramp"] | None, Fraction]:
        if self.pps is not None:
            return "packets", _fitting(10**9 / self.pps)
        if self.mbps is not None:
            return "bytes", _fitting(8000 / self.mbps)
        if self.multiplier is not None:
            return "nanoseconds", _fitting(1 / self.multiplier)
        return (None if self.ramp is None else "ramp"), Fraction(0)

    def __str__(self) -> str:
        """Such as "200,000 packets/s"."""
        speed = "top speed"
        if self.pps is not None:
            speed = f"{float(self.pps):,.12g} packets/s"
        elif self.mbps is not None:
            speed = f"{float(self.mbps):,.12g} Mbit/s"
        elif self.multiplier is not None:
            speed = "as recorded" if self.multiplier == 1 else f"{float(self.multiplier):g} times as recorded"
        elif self.ramp is not None:
            first, last = float(self.ramp.first), float(self.ramp.last)
            speed = f"{first:,.12g} to {last:,.12g} packets/s in {self.ramp.seconds:g} s"
        elif self.one_at_a_time:
            speed = "one at a time"
        return f"{speed}, bursts of {self.burst}" if self.burst > 1 else speed


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(min(seconds, _FOR_EVER_S) * 1e9)


def _fitting(ns_per: Fraction) -> Fraction:
    """The same fraction if it fits into 62 bits, as that of every rate that a person writes; else one close to it."""
    return ns_per if max(ns_per.numerator, ns_per.denominator) < 2**62 else ns_per.limit_denominator(10**15)
