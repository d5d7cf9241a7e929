"""A capture file in place of a producer, for -r: zbufd replays it in another process, in a private run directory.

The reading side opens no capture files itself. The producer side does, which is made for hostile ones.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from zbuf.shared.cli import privileges
from zbuf.shared.cli.process import interrupt_on, sibling
from zbuf.shared.errors import ZbufError
from zbuf.shared.names import printable

_NAME = "saved"
_PATIENCE_S = 1.0


@dataclass
class Saved:
    """A producer that waits for one reader, and replays a file to it."""

    name: str
    run_dir: str
    _process: "subprocess.Popen[bytes]"
    _said: IO[bytes]

    def check(self) -> None:
        """If the replay has ended, pass on its warnings and raise its error; else do nothing."""
        if self._process.poll() is not None:
            self._pass_on(self._process.returncode)

    def finish(self) -> None:
        """Wait for the end of the replay, pass on its warnings, and raise its error."""
        self._pass_on(self._process.wait())

    def _pass_on(self, status: int) -> None:
        self._said.seek(0)
        lines = [line.removeprefix("zbufd: ") for line in self._said.read().decode(errors="replace").splitlines()]
        if status:
            raise ZbufError(lines[-1] if lines else f"the replay ended with status {status}")
        for line in lines[1:]:  # the first says that it is ready
            sys.stderr.write(f"zbuf: {printable(line)}\n")


@contextlib.contextmanager
def saved_capture(path: str, user: str | None = None) -> Iterator[Saved]:
    """Start a replay of a file, or of standard input for "-", to one reader, which the caller connects.

    Args:
        path: the path of the file.
        user: the user who replays it; None for the user of this process.

    From now on, SIGTERM and SIGHUP end this process as Ctrl-C does, so that it leaves no run directory.
    """
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    command = sibling("zbufd", "replay", "--name", _NAME, "--lossless", "--wait-readers", "1")
    command += ["--end-with", str(os.getpid())]  # a replay without its dump would wait for a reader for ever
    with tempfile.TemporaryDirectory(prefix="zbuf-") as run_dir, tempfile.TemporaryFile() as said:
        if user is not None:
            privileges.give(run_dir, user)
            command += ["--user", user]
        process = subprocess.Popen(  # noqa: S603  (no shell: a path is one word)
            [*command, "--run-dir", run_dir, "--", path],
            stdin=None if path == "-" else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            process_group=0,  # Ctrl-C is for the dump, which then ends this process
        )
        try:
            yield Saved(_NAME, run_dir, process, said)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a replay: in good order, so that it removes its memory; by SIGKILL if it still waits for its file."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
