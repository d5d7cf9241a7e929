"""How much clients may ask for."""

from collections.abc import Iterable
from dataclasses import dataclass

from zbuf.producer.serving.listener import Listener
from zbuf.shared.errors import Refused
from zbuf.shared.users import user_name


@dataclass(frozen=True)
class Limits:
    """How much clients may ask for."""

    descriptors: int = 64
    readers: int = 256
    connections: int = 512
    descriptors_per_user: int | None = None
    memory_per_user: int | None = None
    """Bytes of shared memory."""
    filter_instructions: int = 512
    """The most that a filter may come to once it is compiled."""
    filter_instructions_per_user: int = 8192
    """The most that the filters of one user's descriptors may come to together."""
    names: bool = False
    """Whether names in filters of other users are looked up; those of root and of the producer's own user are."""
    evict_after_s: float | None = None
    """How long a reader may hold up the others of its descriptor before it is evicted, in seconds; None for ever."""

    def check_descriptor(self, listeners: Iterable[Listener], uid: int, buffer_bytes: int) -> None:
        """Raise Refused if a user can't open one more descriptor, with two buffers of this size."""
        there = list(listeners)
        if len(there) >= self.descriptors:
            raise Refused(f"all {self.descriptors} descriptors of this producer are in use")
        theirs = [one.segment.layout.buffer_bytes for one in there if one.uid == uid]
        if self.descriptors_per_user is not None and len(theirs) >= self.descriptors_per_user:
            raise Refused(f"all {self.descriptors_per_user} descriptors that a user may open are in use: join one")
        self._check_memory(uid, 2 * (sum(theirs) + buffer_bytes))

    def _check_memory(self, uid: int, wanted_bytes: int) -> None:
        if self.memory_per_user is not None and wanted_bytes > self.memory_per_user:
            raise Refused(
                f"this descriptor's buffers make it {wanted_bytes} bytes of shared memory for user {user_name(uid)}, "
                f"who may have {self.memory_per_user}: use smaller buffers, or join a descriptor"
            )

    def check_filter(self, instructions: int) -> None:
        """Raise Refused if a filter has too many instructions."""
        if instructions > self.filter_instructions:
            raise Refused(
                f"this filter comes to {instructions} instructions for each packet: "
                f"at most {self.filter_instructions} here: use a shorter one"
            )

    def check_filters(self, others: Iterable[Listener], uid: int, instructions: int) -> None:
        """Raise Refused if a filter is too much, alone or beside those of the user's other descriptors."""
        self.check_filter(instructions)
        wanted = instructions + sum(one.filters.instructions for one in others if one.uid == uid)
        if instructions and wanted > self.filter_instructions_per_user:
            raise Refused(
                f"with this filter, those of user {user_name(uid)} come to {wanted} instructions for each packet: "
                f"at most {self.filter_instructions_per_user} here: use a shorter one, or join a descriptor"
            )

    def check_reader(self, readers: int) -> None:
        """Raise Refused if there are as many readers as there may be."""
        if readers >= self.readers:
            raise Refused(f"all {self.readers} readers that this producer serves are there")

    def check_connection(self, connections: int) -> None:
        """Raise Refused if there are more connections than there may be."""
        if connections > self.connections:
            raise Refused(f"more than {self.connections} connections: try again later")
