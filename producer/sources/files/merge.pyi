"""Several native sources as one, in the order of their times; each one's own order stays, whatever its times are."""

from collections.abc import Iterable
from typing import final

from zbuf.producer.ring.contract import NativeSource

@final
class Merge(NativeSource):
    """The packets of several sources, of their next ones always the earliest."""

    def __init__(self, sources: Iterable[NativeSource]) -> None: ...
    @property
    def lasting(self) -> list[object] | None: ...
    def check(self) -> None: ...
