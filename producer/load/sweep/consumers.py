"""The commands whose throughput is measured, each in a process group of its own."""

import os
import signal
import subprocess
import tempfile
import time
from typing import IO

from zbuf.shared.closing import Closing
from zbuf.shared.errors import ZbufError

_PATIENCE_S = 5.0
_LOOK_S = 0.005
_SAID_BYTES = 4096


class Consumer(Closing):
    """A shell command that reads packets, and all processes that it starts.

    Args:
        command: the command, in which "{name}" stands for the producer's name.
        name: the producer's name.
        run_dir: where the producer's socket is; the command finds it in ZBUF_RUN_DIR.
    """

    def __init__(self, command: str, name: str, run_dir: str | os.PathLike[str]) -> None:
        self.command = command.replace("{name}", name)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed with this object)
        self._process = subprocess.Popen(  # noqa: S603  (the user gave this command)
            ["/bin/sh", "-c", self.command],
            env={**os.environ, "ZBUF_RUN_DIR": os.fspath(run_dir)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            process_group=0,
        )

    def check(self) -> None:
        """Check that the command still runs.

        Raises:
            ZbufError: it has ended; the message has the last line that it printed.
        """
        status = self._process.poll()
        if status is not None:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise ZbufError(f"consumer {self.command!r} {how}{self.last_words()}")

    def last_words(self) -> str:
        """The last line that the command wrote to standard error, after a colon; "" if it wrote nothing."""
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - _SAID_BYTES))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def close(self) -> None:
        """End the command and all that it has started: by SIGTERM, then by SIGKILL."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        try:
            while self._lives() and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._said.close()

    def _lives(self) -> bool:
        """Whether any of the processes is alive: the shell may end before the programs that it started."""
        self._process.poll()
        return self._signal(0)

    def _signal(self, number: int) -> bool:
        """Send a signal to all processes of the group; False if the group is empty."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True
