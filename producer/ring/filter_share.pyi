"""What the filters of one user's descriptors may take of the pump's time."""

from typing import final

@final
class IdleTime:
    """How long a pump's sources had nothing to give; the pump counts."""

@final
class FilterShare:
    """The account of one user; only the owner of the descriptors may use it."""

    share: float
    passed_over: int
    def __init__(self, idle: IdleTime) -> None: ...
    def set(self, share: float) -> None: ...
