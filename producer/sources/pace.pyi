"""The moment at which each packet is due, and the wait until then."""

from collections.abc import Callable, Sequence
from typing import Literal, final

from zbuf.producer.ring.contract import NativeSource

@final
class Pace:
    """A schedule under way: when packets are due, and how late they were offered."""

    stamp: bool
    packets: int
    wire_bytes: int
    behind: int
    max_lag_ns: int
    def __init__(
        self,
        counts: Literal["packets", "bytes", "nanoseconds", "ramp"] | None = None,
        *,
        ns_per: tuple[int, int] = (0, 1),
        ramp: tuple[float, float, float] | None = None,
        burst: int = 1,
        duration_ns: int | None = None,
        max_gap_ns: int | None = None,
        held: bool = False,
        stamp: bool = False,
        late_after_ns: int = 1_000_000,
        limit: int | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None: ...
    @property
    def over(self) -> bool: ...
    @property
    def timed(self) -> bool: ...
    @property
    def seconds(self) -> float: ...
    @property
    def packets_per_second(self) -> float: ...
    @property
    def pace(self) -> float | None: ...
    @property
    def missed_ns(self) -> int: ...
    def lag_ns(self, share: float) -> int: ...
    def lags(self) -> list[tuple[int, int]]: ...
    def next_in_s(self) -> float: ...
    def allow(self, packets: int) -> None: ...
    def end(self) -> None: ...
    def set_recordings(self, recordings: Sequence[int]) -> None: ...
    def hold(self, time_ns: int, wirelen: int, interface: int = 0) -> int | None: ...

@final
class Paced(NativeSource):
    """The packets of another native source, each when it is due."""

    def __init__(self, source: NativeSource, pace: Pace) -> None: ...
    def check(self) -> None: ...
