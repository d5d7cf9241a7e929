"""Who may read a capture, and which packets of it.

The kernel says who connects (SO_PEERCRED, unix(7)); rules say what they may see.
"""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.shared.arguments import check_fields
from zbuf.shared.errors import Refused, ValueRefused
from zbuf.shared.memory.pcapng import Interface
from zbuf.shared.users import user_name

_PEERCRED = struct.Struct("iII")  # struct ucred: a pid, and two numbers without a sign
_SO_PEERGROUPS = 59
_GROUPS_BYTES = 1024  # as many as socket.getsockopt() takes


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel knew it when it connected."""

    pid: int
    """0 where the process is in a namespace that we can't see."""
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> "Peer":
        """The process that connected."""
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        return cls(pid, uid, frozenset({gid, *_other_groups(connection, uid, gid)}))

    def __str__(self) -> str:
        return f"user {user_name(self.uid)} (uid {self.uid}, pid {self.pid})"


def _other_groups(connection: socket.socket, uid: int, gid: int) -> list[int]:
    """The groups that a peer was in beside its first; if these are more than 256, the groups of its user now."""
    try:
        answer = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return _groups_now(uid, gid)
    return list(struct.unpack(f"{len(answer) // 4}I", answer))


def _groups_now(uid: int, gid: int) -> list[int]:
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


def is_operator(uid: int) -> bool:
    """Whether a user is root, or the one that this producer runs as: who could trace it, too."""
    return uid in (0, os.geteuid())


@dataclass(frozen=True)
class Grant:
    """What a peer may see."""

    guard: str = ""
    """A pcap-filter(7) that packets must pass; empty for everything."""
    interfaces: int | None = None
    """A bit for each interface that the peer may see; None for all."""

    def shows(self, interface: int) -> bool:
        """Whether the peer may see the interface of this number."""
        return self.interfaces is None or bool(self.interfaces >> interface & 1)

    def visible(self, interfaces: Sequence[Interface]) -> list[Interface]:
        """The interfaces that the peer may see, of all in the order of their numbers."""
        return [one for number, one in enumerate(interfaces) if self.shows(number)]

    def shown(self, interfaces: Sequence[Interface], first: int = 0) -> list[Interface]:
        """Interfaces as the peer may know them: of those that it may not see, the link type and no more.

        Args:
            interfaces: in the order of their numbers.
            first: the number of the first of them.
        """
        return [
            one if self.shows(number) else Interface("", one.linktype) for number, one in enumerate(interfaces, first)
        ]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of an allow list: what some users, and the members of some groups, may see."""

    users: list[str] = []
    """Whom it is about, by name or number."""
    groups: list[str] = []
    """The groups whose members it is about, by name or number."""
    filter: str = ""
    """A pcap-filter(7) expression that packets must pass before the reader's own filter; empty for everything."""
    interfaces: list[str] = []
    """The interfaces that they may see; empty for all."""

    def __post_init__(self) -> None:
        check_fields(self)


class Access:
    """An allow list, made ready for one capture.

    Args:
        rules: the first rule that names a peer decides; without rules, whoever can open the socket may see everything.
        interfaces: the capture's interfaces, in the order of their numbers. Rules may name these; an interface that
            appears later is for peers that may see all interfaces.

    Raises:
        ValueRefused: a user, group or interface does not exist, or a filter does not compile.
    """

    def __init__(self, rules: Sequence[Rule] = (), interfaces: Sequence[Interface] = ()) -> None:
        self._rules = [
            (frozenset(map(user_id, rule.users)), frozenset(map(group_id, rule.groups)), grant)
            for rule in rules
            for grant in [Grant(rule.filter, _mask(rule.interfaces, [one.name for one in interfaces]))]
        ]
        for rule in rules:
            LinkFilters(rule.filter, interfaces)  # raises where it compiles for none of them

    def grant(self, peer: Peer) -> Grant:
        """What a peer may see. Root, and the user that the producer runs as, may see everything.

        Raises:
            Refused: no rule names the peer.
        """
        if not self._rules or is_operator(peer.uid):
            return Grant()
        for users, groups, grant in self._rules:
            if peer.uid in users or peer.groups & groups:
                return grant
        raise Refused(f"user {user_name(peer.uid)} is not allowed to read this capture: its allow list says who is")


def _mask(wanted: Sequence[str], there: Sequence[str]) -> int | None:
    for name in wanted:
        if name not in there:
            raise ValueRefused(f"interface {name!r} of an allow rule: this capture has {', '.join(there)}")
    return sum(1 << there.index(name) for name in set(wanted)) if wanted else None


def user_id(user: str) -> int:
    """The number of a user whose name, or number, is given."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        if user.isascii() and user.isdecimal() and int(user) < 2**32 - 1:
            return int(user)
        raise ValueRefused(f"no user {user!r}: see getent passwd") from None


def group_id(group: str) -> int:
    """The number of a group whose name, or number, is given."""
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        if group.isascii() and group.isdecimal() and int(group) < 2**32 - 1:
            return int(group)
        raise ValueRefused(f"no group {group!r}: see getent group") from None
