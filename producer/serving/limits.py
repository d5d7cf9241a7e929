"""How much clients may ask for."""

from dataclasses import dataclass

from zbuf.shared.arguments import check_fields
from zbuf.shared.errors import Refused
from zbuf.shared.users import user_name


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
    filter_instructions: int = 512
    """The most that a filter may come to once it is compiled."""
    filter_instructions_per_user: int = 8192
    """The most that the filters of one user's descriptors may come to together."""
    names: bool = False
    """Whether names in filters of other users are looked up; those of root and of the producer's own user are."""
    evict_after_s: float | None = None
    """How long a reader may hold up the others of its descriptor before it is evicted, in seconds; None for ever."""

    def __post_init__(self) -> None:
        check_fields(self)

    def check_filter(self, instructions: int) -> None:
        """Raise Refused if a filter has too many instructions."""
        if instructions > self.filter_instructions:
            raise Refused(
                f"this filter comes to {instructions} instructions for each packet: "
                f"at most {self.filter_instructions} here: use a shorter one"
            )

    def check_filters(self, uid: int, others: int, instructions: int) -> None:
        """Raise Refused if a filter is too much, alone or beside the `others` instructions of its user's filters."""
        self.check_filter(instructions)
        wanted = instructions + others
        if instructions and wanted > self.filter_instructions_per_user:
            raise Refused(
                f"with this filter, those of user {user_name(uid)} come to {wanted} instructions for each packet: "
                f"at most {self.filter_instructions_per_user} here: use a shorter one, or join a descriptor"
            )
