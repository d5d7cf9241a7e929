"""A capture file in place of a producer, for -r: a replay in a process of its own, which nobody else finds.

Whoever reads packets opens no capture file: that is left to the producer side, which is made for hostile ones.
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

_NAME = "saved"
_PATIENCE_S = 1.0


@dataclass
class Saved:
    """A producer that replays a file to one reader, and waits for it."""

    name: str
    run_dir: str
    _process: "subprocess.Popen[bytes]"
    _said: IO[bytes]

    def check(self) -> None:
        """Once it has ended: pass on its warnings, and raise its error; nothing while it runs."""
        if self._process.poll() is not None:
            self._pass_on(self._process.returncode)

    def finish(self) -> None:
        """Wait for its end, after the last packet, and check()."""
        self._pass_on(self._process.wait())

    def _pass_on(self, status: int) -> None:
        self._said.seek(0)
        lines = [line.removeprefix("zbufd: ") for line in self._said.read().decode(errors="replace").splitlines()]
        if status:
            raise ZbufError(lines[-1] if lines else f"the replay ended with status {status}")
        for line in lines[1:]:  # the first says that it is ready
            sys.stderr.write(f"zbuf: {line}\n")


@contextlib.contextmanager
def saved_capture(path: str, user: str | None = None) -> Iterator[Saved]:
    """Replay a file, or standard input for "-", to a reader that is to connect to it.

    Args:
        path: the file's.
        user: who replays it, who may be the only one that this process is at the end; None for this process's own.

    From here on, SIGTERM and SIGHUP end this process as Ctrl-C does, so that it leaves no run directory.
    """
    interrupt_on(signal.SIGTERM, signal.SIGHUP)
    command = sibling("zbufd", "replay", "--name", _NAME, "--lossless", "--wait-readers", "1")
    command += ["--end-with", str(os.getpid())]  # what nobody reads any more is not to wait for a reader
    with tempfile.TemporaryDirectory(prefix="zbuf-") as run_dir, tempfile.TemporaryFile() as said:
        if user is not None:
            privileges.give(run_dir, user)
            command += ["--user", user]
        process = subprocess.Popen(  # noqa: S603  (a path is one word, whatever is in it)
            [*command, "--run-dir", run_dir, "--", path],
            stdin=None if path == "-" else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            process_group=0,  # Ctrl-C is for the dump, which ends it
        )
        try:
            yield Saved(_NAME, run_dir, process, said)
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """In good order, so that its memory goes with it; or at once, where it waits for a file that does not come."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
