"""Giving up root, capabilities, and the right to gain any, once everything that needs them is open.

A live capture keeps CAP_NET_RAW if it has it, because an interface that returns has to be opened again. It keeps
nothing else; packet(7)'s promiscuous mode does not need CAP_NET_ADMIN.

Privileges belong to a thread (capabilities(7)), and threads that it starts inherit them. So give them up before you
start threads.
"""

import contextlib
import ctypes
import importlib
import os
import pwd
import struct
from collections.abc import Iterator
from pathlib import Path

from zbuf.shared.cli.process import prctl, raise_errno
from zbuf.shared.errors import ConfigurationError

_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 8, 38, 24
_CAP_SETPCAP = 8
CAP_NET_RAW = 13
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAP = Path("/proc/sys/kernel/cap_last_cap")

_libc = ctypes.CDLL(None, use_errno=True)


def drop(user: str | None, group: int | None = None, keep: int | None = None) -> None:
    """Become `user`, keep no capability but one, and never gain any again.

    Args:
        user: name or number; None to stay the same user.
        group: the number of one more group to be in: the one that the control socket is given to.
        keep: the number of a capability to keep if this process has it.

    Raises:
        ConfigurationError: there is no such user, or this process may not become it.
    """
    if user is not None:
        _import_what_is_used_later()
    kept = 0 if keep is None else 1 << keep
    _drop_bounding_set(kept)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if user is not None:
        prctl(_PR_SET_KEEPCAPS, 1)
        _become(user, group)
    _limit_capabilities(kept)


@contextlib.contextmanager
def acting_as(user: str | None) -> Iterator[None]:
    """Be a user that drop() can become for the `with` block, where files are concerned; None to stay the same user.

    Raises:
        ConfigurationError: there is no such user, or this process may not become it.
    """
    if user is None or ids_of(user)[0] == os.geteuid():
        yield
        return
    uid, gid = ids_of(user)
    before, groups = (os.geteuid(), os.getegid()), os.getgroups()
    with contextlib.ExitStack() as back:
        try:
            os.setgroups([gid])
            back.callback(os.setgroups, groups)
            os.setegid(gid)
            back.callback(os.setegid, before[1])
            os.seteuid(uid)
            back.callback(os.seteuid, before[0])
        except OSError as error:
            raise _may_not_become(user, error) from None
        yield


def give(path: str, user: str) -> None:
    """Give a file to a user that drop() can become; raises ConfigurationError if that is not allowed."""
    try:
        os.chown(path, *ids_of(user))
    except OSError as error:
        raise _may_not_become(user, error) from None


def _import_what_is_used_later() -> None:
    """Import what is imported only when it is used: the user may not be able to read Python's folders."""
    for module in ("rich.console", "rich.live", "zoneinfo"):  # progress; msgspec's times
        importlib.import_module(module)


def _become(user: str, group: int | None) -> None:
    uid, gid = ids_of(user)
    if uid == os.geteuid():
        return
    try:
        os.setgroups([gid] if group is None else [gid, group])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise _may_not_become(user, error) from None


def _may_not_become(user: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"user {user}: can't become it: {error.strerror}: start as root")


def ids_of(user: str) -> tuple[int, int]:
    """The numbers of a user and of its group; a number that has no name is taken for both."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise ConfigurationError(f"user {user}: there is no user of that name") from None
        return int(user), int(user)
    return entry.pw_uid, entry.pw_gid


def _drop_bounding_set(kept: int) -> None:
    """Take all but the kept capabilities from the bounding set, if allowed, so that no program run later gains them."""
    if not _effective() >> _CAP_SETPCAP & 1:
        return
    for capability in range(int(_LAST_CAP.read_text()) + 1):
        if not kept >> capability & 1:
            prctl(_PR_CAPBSET_DROP, capability)


def _limit_capabilities(kept: int) -> None:
    kept &= _permitted()
    _capset(effective=kept, permitted=kept)


def _status(field: str) -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1], 16)
    return 0


def _effective() -> int:
    return _status("CapEff:")


def _permitted() -> int:
    return _status("CapPrm:")


def _capset(effective: int, permitted: int) -> None:
    """Call capset(2), with no inheritable capabilities."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low, high = 0xFFFFFFFF, 32
    sets = [effective & low, permitted & low, 0, effective >> high, permitted >> high, 0]
    if _libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *sets))) != 0:
        raise_errno("capset")
