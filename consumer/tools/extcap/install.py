"""zbuf extcap --install: the script in Wireshark's personal extcap folder that calls zbuf extcap."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from zbuf.shared.errors import ZbufError

MARKER = "# Made by zbuf extcap --install; zbuf extcap --uninstall removes it."
"""The second line of a script that is ours."""

_TSHARK_ANSWERS_S = 30


def install_script(folder: str | None = None, run_dir: str | None = None) -> str:
    """Write the script, in place of an older one of ours.

    Args:
        folder: where to; None for the personal extcap folder.
        run_dir: where it is to look for producers; None for where it would by itself.

    Returns:
        What to tell the user.

    Raises:
        ZbufError: a file of that name is not ours.
    """
    path = _path(folder)
    if os.path.lexists(path) and not _is_ours(path):
        raise ZbufError(f"{path} is not zbuf's own: it stays as it is: move it away, or choose another --dir")
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, _script(_command(), run_dir))
    return f"{path} is there: tshark -D and Wireshark list the captures that run, from now on"


def remove_script(folder: str | None = None) -> str:
    """Remove the script, and return what to tell the user; raises ZbufError if there is no script of ours."""
    path = _path(folder)
    if not os.path.lexists(path):
        raise ZbufError(f"{path} is not there: nothing to remove")
    if not _is_ours(path):
        raise ZbufError(f"{path} is not zbuf's own: it stays as it is")
    path.unlink()
    return f"{path} is removed"


def _path(folder: str | None) -> Path:
    return Path(folder or _personal_folder()).absolute() / "zbuf"


def _personal_folder() -> Path:
    """Where Wireshark looks for a user's extcap programs; without a tshark to ask, where one since 4.2 does."""
    told = _told_folders()
    if "personal extcap path" in told:
        return Path(told["personal extcap path"])
    if "personal configuration" in told:  # one before 4.2 keeps them there, and does not say so
        return Path(told["personal configuration"]) / "extcap"
    return Path.home() / ".local/lib/wireshark/extcap"


def _told_folders() -> dict[str, str]:
    tshark = shutil.which("tshark")
    if tshark is None:
        return {}
    try:
        done = subprocess.run(  # noqa: S603  (the user's own tshark)
            [tshark, "-G", "folders"], capture_output=True, check=False, timeout=_TSHARK_ANSWERS_S
        )
    except subprocess.TimeoutExpired:
        return {}
    lines = os.fsdecode(done.stdout).splitlines()
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value.strip()}


def _command() -> str:
    """The path of the zbuf command that runs; if it runs as a module, of the command beside this Python."""
    for path in (sys.argv[0], os.path.join(os.path.dirname(sys.executable), "zbuf")):
        if os.path.basename(path) == "zbuf" and os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise ZbufError(f"there is no zbuf command beside {sys.executable}: run zbuf by its path")


def _script(command: str, run_dir: str | None) -> str:
    more = [] if run_dir is None else ["--run-dir", os.path.abspath(run_dir)]
    return f'#!/bin/sh\n{MARKER}\nexec {shlex.join([command, "extcap", *more])} "$@"\n'


def _is_ours(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1024).split(b"\n")[1:2] == [MARKER.encode()]


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: Wireshark may look at any moment."""
    handle, temporary = tempfile.mkstemp(prefix=".zbuf-", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(os.fsencode(text))
            os.fchmod(file.fileno(), 0o755)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
