"""tcpdump's -z: a command for each file that is whole."""

import os
import shutil
import subprocess
import sys

import typer

_AT_LOWEST_PRIORITY = ("nice", "-n", "19")


class Postrotate:
    """Runs `command FILE` for each file, in the background and at the lowest priority, without a shell.

    Nobody waits for the commands: they may outlive the dump. Ctrl-C is for the dump, and does not end them.

    Args:
        command: a program, looked for as a shell does; None to run nothing.

    Raises:
        typer.BadParameter: there is no such program.
    """

    def __init__(self, command: str | None) -> None:
        self._program = None if command is None else _find(command)
        self._running: list[subprocess.Popen[bytes]] = []

    def __call__(self, path: str) -> None:
        """Start the command for a file."""
        if self._program is None:
            return
        self._running = [one for one in self._running if one.poll() is None]  # poll() takes what has ended
        file = os.path.join(".", path) if path.startswith("-") else path  # so that it is not taken for an option
        words = [*_AT_LOWEST_PRIORITY, self._program, file]
        try:
            self._running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0))  # noqa: S603
        except OSError as error:
            sys.stderr.write(f"zbuf: -z {self._program}: {error.strerror}: {path} is left as it is\n")


def _find(command: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise typer.BadParameter(
            f"-z {command!r}: there is no such program: give a name on the PATH, or a path, without options"
        )
    return os.path.abspath(found)
