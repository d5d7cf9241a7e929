"""Giving up what is not needed once all is open: root, capabilities, the right to gain any.

A live capture keeps CAP_NET_RAW where it was there, since an interface that returns has to be opened again. Nothing
else is kept: not CAP_NET_ADMIN, which promiscuous mode of packet(7) does not ask for.

All of this is a thread's own (capabilities(7)), and is inherited by the threads that it starts: so it comes before
them.
"""

import ctypes
import importlib
import os
import pwd
import struct
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
        user: name or number; None to stay who we are, with that user's own files and nothing else.
        group: one more group to be in, since the control socket is given to it.
        keep: the number of a capability to keep, where it is there.

    Raises:
        ConfigurationError: we may not become that user.
    """
    importlib.import_module("zoneinfo")  # which msgspec imports later, from where the user may not be able to read
    kept = 0 if keep is None else 1 << keep
    _drop_bounding_set(kept)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if user is not None:
        prctl(_PR_SET_KEEPCAPS, 1)
        _become(user, group)
    _limit_capabilities(kept)


def give(path: str, user: str) -> None:
    """Have a file belong to a user that drop() can become; raises ConfigurationError where it can't."""
    try:
        os.chown(path, *_ids_of(user))
    except OSError as error:
        raise _may_not_become(user, error) from None


def _become(user: str, group: int | None) -> None:
    uid, gid = _ids_of(user)
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


def _ids_of(user: str) -> tuple[int, int]:
    """A user's number and that of its group; a number that has no name is both."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        if not user.isdecimal():
            raise ConfigurationError(f"user {user}: there is none of that name") from None
        return int(user), int(user)
    return entry.pw_uid, entry.pw_gid


def _drop_bounding_set(kept: int) -> None:
    """Take from the bounding set what is not kept, where we may: no program that is run can gain it then."""
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
    """capset(2); nothing is left inheritable."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    low, high = 0xFFFFFFFF, 32
    sets = [effective & low, permitted & low, 0, effective >> high, permitted >> high, 0]
    if _libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *sets))) != 0:
        raise_errno("capset")
