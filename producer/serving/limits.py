"""How much clients may ask for."""

from dataclasses import dataclass

from zbuf.shared.arguments import check_fields


@dataclass(frozen=True)
class Limits:
    """How much clients may ask for: all of them together, and each user.

    Where there is no number for each user, a user may hold no more of anything than is left of it for others, less an
    eighth that is for root and for the producer's own user, whom this does not bind.
    """

    descriptors: int = 64
    """Most descriptors at a time."""
    readers: int = 256
    """Most readers at a time."""
    connections: int = 512
    """Most connections at a time."""
    descriptors_per_user: int | None = None
    """Most descriptors that one user has opened."""
    readers_per_user: int | None = None
    """Most readers of one user."""
    connections_per_user: int | None = None
    """Most connections of one user."""
    memory_per_user: int | None = None
    """Most shared memory for the descriptors of one user, in bytes."""
    evict_after_s: float | None = None
    """How long a reader may hold up the others of its descriptor before it is evicted, in seconds; None for ever."""

    def __post_init__(self) -> None:
        check_fields(self)
