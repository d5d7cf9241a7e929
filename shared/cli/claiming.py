"""A command's way to a producer's own directory: as root, before it becomes another user."""

import os
from pathlib import Path

from zbuf.shared.cli import privileges
from zbuf.shared.cli.remover import start_remover
from zbuf.shared.control.rundir_place import ProducerDirectory


def claim(
    run_dir: Path, name: str, *, socket_mode: int = 0o600, user: str | None = None, gid: int | None = None
) -> ProducerDirectory:
    """Make a producer's directory, for this user or for the one that privileges.drop() will become.

    Call this before there are threads. Arguments and errors are those of ProducerDirectory, but for two.

    Args:
        user: the name or number of the user to become; None to stay the same user.
        gid: a group that may read; by default, the group of the user.

    Raises:
        ConfigurationError: there is no such user.
    """
    uid, own_gid = (None, None) if user is None else privileges.ids_of(user)
    if uid is None or uid == os.geteuid():
        return ProducerDirectory(run_dir, name, socket_mode=socket_mode, gid=gid)
    place = ProducerDirectory(run_dir, name, socket_mode=socket_mode, uid=uid, gid=own_gid if gid is None else gid)
    if os.geteuid() == 0:
        place.removed_by(start_remover(place.remove, place.fds))
    return place
