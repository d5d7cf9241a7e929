"""Who may read a capture, and what of it: the kernel tells who connects (SO_PEERCRED, unix(7)), rules what they see."""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from zbuf.producer.serving.link_filters import LinkFilters
from zbuf.shared.errors import Refused, ValueRefused
from zbuf.shared.memory.pcapng import Interface

_PEERCRED = struct.Struct("3i")  # struct ucred
_SO_PEERGROUPS = 59
_GROUPS_BYTES = 1024  # as many as socket.getsockopt() takes


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel knew it when it connected."""

    pid: int
    """0 where it is in a process namespace that we can't see."""
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connection: socket.socket) -> "Peer":
        """Who connected."""
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        return cls(pid, uid, frozenset({gid, *_other_groups(connection, uid, gid)}))

    def __str__(self) -> str:
        return f"user {user_name(self.uid)} (uid {self.uid}, pid {self.pid})"


def _other_groups(connection: socket.socket, uid: int, gid: int) -> list[int]:
    """The groups that a peer was in beside its first; of one in more than 256, those that the user is in."""
    try:
        answer = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        return os.getgrouplist(user_name(uid), gid)
    return list(struct.unpack(f"{len(answer) // 4}I", answer))


@dataclass(frozen=True)
class Grant:
    """What a peer may see."""

    guard: str = ""
    """A pcap-filter(7) that its packets must pass; empty for everything."""
    interfaces: int | None = None
    """A bit for each interface that it may see; None for all."""


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule of an allow list: these users and members of these groups may see this."""

    users: list[str] = []
    groups: list[str] = []
    filter: str = ""
    """A pcap-filter(7) in front of their own; empty for everything."""
    interfaces: list[str] = []
    """Those that they may see; all where there are none."""


class Access:
    """An allow list, made ready for one capture.

    Args:
        rules: the first that names a peer decides; without any, all who can open the socket may see everything.
        interfaces: the capture's interfaces, in the order of their numbers. Rules may name these; what appears later
            is for those alone who may see all interfaces.

    Raises:
        ValueRefused: a user, group or interface that does not exist, or a filter that does not compile.
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
        """What a peer may see; root, and the user that the producer runs as, may see everything.

        Raises:
            Refused: nothing.
        """
        if not self._rules or peer.uid in (0, os.geteuid()):
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
    """The number of a user that is given by name, or by number."""
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        if user.isascii() and user.isdecimal() and int(user) < 2**32 - 1:
            return int(user)
        raise ValueRefused(f"no user {user!r}: see getent passwd") from None


def group_id(group: str) -> int:
    """The number of a group that is given by name, or by number."""
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):
        if group.isascii() and group.isdecimal() and int(group) < 2**32 - 1:
            return int(group)
        raise ValueRefused(f"no group {group!r}: see getent group") from None


def user_name(uid: int) -> str:
    """A user's name, or the number of one that has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
