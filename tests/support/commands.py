"""The project's two commands as processes, and what they print."""

import contextlib
import os
import re
import select
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from support.processes import LIMIT_S

Done = subprocess.CompletedProcess[str]
Process = subprocess.Popen[str]

_INFORMATIONAL = re.compile(r"zbufd: \S+ ready in .+, link-type \d+|zbuf: reading \S+, link-type \d+, .+ \d+ bytes")

_BIN = Path(sys.executable).parent


def command(name: str, *arguments: str | os.PathLike[str] | bytes) -> list[str | bytes]:
    """The command line of zbufd or zbuf."""
    return [str(_BIN / name), *(os.fspath(argument) for argument in arguments)]


def run(name: str, *arguments: str | os.PathLike[str] | bytes, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run zbufd or zbuf to its end."""
    options = {"stdin": subprocess.DEVNULL, "timeout": LIMIT_S} | options
    return subprocess.run(command(name, *arguments), capture_output=True, text=True, check=False, **options)


class Commands:
    """Starts zbufd and zbuf, and kills them at the end if they still run."""

    def __init__(self) -> None:
        self._cleaning = contextlib.ExitStack()

    def start(self, name: str, *arguments: str | os.PathLike[str] | bytes, **options: Any) -> "subprocess.Popen[str]":
        """Start zbufd or zbuf, with pipes for its standard output and error."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = self._cleaning.enter_context(subprocess.Popen(command(name, *arguments), **(pipes | options)))
        self._cleaning.callback(process.kill)
        return process

    def adopt(self, process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
        """Have another process killed at the end, too."""
        self._cleaning.enter_context(process)
        self._cleaning.callback(process.kill)
        return process

    def close(self) -> None:
        self._cleaning.close()


def wait_line(stream: IO[str] | None, part: str) -> str:
    """Wait for a line with `part` in it from a process; reads no further, so that communicate() returns the rest."""
    assert stream is not None
    line = b""
    while select.select([stream], [], [], LIMIT_S)[0]:
        byte = os.read(stream.fileno(), 1)
        line += byte
        if byte == b"\n" and part.encode() in line:
            return line.decode()
        if byte in (b"\n", b""):
            assert byte, f"no line with {part!r} came before the end"
            line = b""
    raise AssertionError(f"no line with {part!r} came")


def tcpdump(path: Path) -> list[str]:
    """The line that tcpdump prints for each packet of a file; tcpdump must find the file whole."""
    with path.open("rb") as file:
        done = subprocess.run(
            ["tcpdump", "-nn", "-tt", "--nano", "-r", "-"], stdin=file, capture_output=True, check=False, text=True
        )
    assert done.returncode == 0, done.stderr
    assert "truncated" not in done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("\t")]  # without the lines of hex


def told(stderr: str) -> list[str]:
    """The lines on stderr that are not just information."""
    return [line for line in stderr.splitlines() if not _INFORMATIONAL.fullmatch(line)]


def error_of(done: Done, status: int = 1) -> str:
    """The one line of error of a command, which must have failed as commands do."""
    assert done.returncode == status, done.stderr
    lines = told(done.stderr)
    assert len(lines) == 1, done.stderr
    assert re.match(r"zbufd?: ", lines[0]), lines[0]
    assert done.stdout == ""
    return lines[0]


def end(process: Process, seconds: float = LIMIT_S) -> Done:
    """Wait for the end of a process; returns the rest of its output."""
    out, error = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)
