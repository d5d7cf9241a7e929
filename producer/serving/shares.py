"""What each user holds of a producer, and how much more it may take.

A user books before anything is reserved for it, so that a hundred requests at once don't get more than one after the
other would. What a user holds of anything may be no more than what is left of it: whoever comes first gets half, the
next a third, and however many users take all they can, there is something left for one more. An eighth of everything
is for root and for the producer's own user alone, and the rule does not bind them. The limits may give a number in
place of the rule.
"""

import os
import resource
import threading
from collections import Counter
from collections.abc import Callable
from typing import Literal, Self

from zbuf.producer.serving.access import is_operator
from zbuf.producer.serving.limits import Limits
from zbuf.shared.errors import Refused
from zbuf.shared.memory.segment import shared_memory
from zbuf.shared.users import user_name

Kind = Literal["connections", "readers", "descriptors", "memory", "files"]

FILES_OF_READER = 2
"""File descriptors that a producer keeps for a reader: of its ack page and its doorbell."""
FILES_TO_SEND = 3
"""Those that it sends to a new reader, and closes then."""
FILES_OF_DESCRIPTOR = 3
"""Those of a segment: its mapping, its lock, and one while it is made."""

_FILES_KEPT = 64  # for everything else: the capture, its log, metrics, and connections on their way to a refusal
_FILES_IF_UNLIMITED = 1 << 20
_EIGHTH = 8


class Booking:
    """What a user has booked, until release(); as a context manager, until the end of the block."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give it back; again does nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()


class Shares:
    """The book of what users hold; any thread may use it.

    Args:
        limits: how much there is; may be replaced at any time. What is held beyond new limits stays.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._held: dict[Kind, Counter[int]] = {
            kind: Counter() for kind in ("connections", "readers", "descriptors", "memory", "files")
        }
        self._unmade_bytes = 0
        self._files_before = len(os.listdir("/proc/self/fd"))

    # ---- booking ----------------------------------------------------------------------------------------------------

    def book(
        self, uid: int, *, connections: int = 0, readers: int = 0, descriptors: int = 0, memory: int = 0, files: int = 0
    ) -> Booking:
        """Book for a user: all that is asked for, or nothing.

        Args:
            uid: the user.
            connections: how many.
            readers: how many.
            descriptors: how many.
            memory: bytes of shared memory; note_made() says when they are reserved.
            files: the producer's own file descriptors that this takes.

        Raises:
            Refused: there is not so much left, or not for this user.
        """
        wanted: dict[Kind, int] = {
            "connections": connections,
            "readers": readers,
            "descriptors": descriptors,
            "memory": memory,
            "files": files,
        }
        wanted = {kind: amount for kind, amount in wanted.items() if amount}
        with self._lock:
            for kind, amount in wanted.items():
                self._check(kind, uid, amount)
            self._add(uid, wanted, 1)
            self._unmade_bytes += memory
        return Booking(lambda: self._give_back(uid, wanted))

    def note_made(self, memory: int) -> None:
        """So many of the bytes that were booked are reserved now, or never will be."""
        with self._lock:
            self._unmade_bytes -= memory

    def _give_back(self, uid: int, booked: dict[Kind, int]) -> None:
        with self._lock:
            self._add(uid, booked, -1)

    def _add(self, uid: int, amounts: dict[Kind, int], sign: int) -> None:
        for kind, amount in amounts.items():
            self._held[kind][uid] += sign * amount
            if not self._held[kind][uid]:
                del self._held[kind][uid]

    # ---- the rule ---------------------------------------------------------------------------------------------------

    def _check(self, kind: Kind, uid: int, amount: int) -> None:
        held, used = self._held[kind][uid], self._held[kind].total()
        most, per_user = self._most_of(kind), self._per_user(kind)
        if per_user is not None and held + amount > per_user:
            raise Refused(_too_much_for_a_user(kind, uid, held + amount, per_user))
        if is_operator(uid):
            if kind != "memory" and used + amount > most:  # of memory, whoever reserves it learns how much there is
                raise Refused(_too_much(kind, most))
            return
        free = self._free_memory() if kind == "memory" else most - used
        left = free - (most + _EIGHTH // 2) // _EIGHTH
        if amount > left:
            raise Refused(_too_much(kind, most))
        if per_user is None and held + amount > left:
            raise Refused(
                f"user {user_name(uid)} has {held} of this producer's {most} {_WORDS[kind]}, and may have no more "
                f"than the {max(left, 0)} that are left for others: close some"
            )

    def _most_of(self, kind: Kind) -> int:
        limits = self.limits
        match kind:
            case "connections":
                return limits.connections
            case "readers":
                return limits.readers
            case "descriptors":
                return limits.descriptors
            case "memory":
                return shared_memory()[0]
            case "files":
                return _files_max() - self._files_before - _FILES_KEPT

    def _per_user(self, kind: Kind) -> int | None:
        limits = self.limits
        return {
            "connections": limits.connections_per_user,
            "readers": limits.readers_per_user,
            "descriptors": limits.descriptors_per_user,
            "memory": limits.memory_per_user,
        }.get(kind)

    def _free_memory(self) -> int:
        return shared_memory()[1] - self._unmade_bytes

    # ---- at the start -----------------------------------------------------------------------------------------------

    def shortage(self) -> str | None:
        """Why the limits can't be reached: the process may not open so many files. None where they can."""
        limits, most = self.limits, self._most_of("files")
        wanted = (
            limits.connections
            + limits.readers * (FILES_OF_READER + FILES_TO_SEND)
            + limits.descriptors * FILES_OF_DESCRIPTOR
        )
        if wanted <= most:
            return None
        return (
            f"{limits.connections} connections, {limits.readers} readers and {limits.descriptors} descriptors take "
            f"{wanted} file descriptors, and RLIMIT_NOFILE leaves {most} for them: raise it (ulimit -n, LimitNOFILE=), "
            "or lower the limits; readers are refused when none is left"
        )


_WORDS: dict[Kind, str] = {
    "connections": "connections",
    "readers": "readers",
    "descriptors": "descriptors",
    "memory": "bytes of shared memory",
    "files": "file descriptors",
}


def _too_much(kind: Kind, most: int) -> str:
    match kind:
        case "connections":
            return f"more than {most} connections: try again later"
        case "readers":
            return f"all {most} readers that this producer serves are there"
        case "descriptors":
            return f"all {most} descriptors of this producer are in use"
        case "memory":
            return "there is not so much shared memory left for this user: use smaller buffers, or join a descriptor"
        case "files":
            return f"all {most} file descriptors that this producer has for clients are in use: raise RLIMIT_NOFILE"


def _too_much_for_a_user(kind: Kind, uid: int, wanted: int, most: int) -> str:
    match kind:
        case "descriptors":
            return f"all {most} descriptors that a user may open are in use: join one"
        case "memory":
            return (
                f"this descriptor's buffers make it {wanted} bytes of shared memory for user {user_name(uid)}, "
                f"who may have {most}: use smaller buffers, or join a descriptor"
            )
        case _:
            return f"all {most} {_WORDS[kind]} that a user may have are in use: close some"


def _files_max() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _FILES_IF_UNLIMITED if soft == resource.RLIM_INFINITY else soft
