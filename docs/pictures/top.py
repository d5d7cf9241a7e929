"""Draw a picture of `zbuf top`: python docs/pictures/top.py [FILE.svg]; without FILE, docs/pictures/top.svg

The screen is the command's own view of a real producer; rich draws it as SVG. `zbufd replay` publishes a capture at a
steady rate, and four processes read it. Two of them share a descriptor. One of the two is stopped, so that the
picture shows how top marks a slow reader, and the packets that it costs.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from zbuf.consumer.tools.top.view import Screenful
from zbuf.consumer.tools.top.watch import Captures, Seen

ROOT = Path(__file__).resolve().parents[2]
PICTURE = Path(__file__).with_name("top.svg")
COMMANDS = Path(sys.executable).parent
WIDTH, HEIGHT = 150, 15  # of the terminal, in characters
UPDATES, DELAY_S = 12, 0.5
LIMIT_S = 30

PRODUCER = "zbufd replay mix.pcap --name lab --pps 400k --loop 0 --stamp now --buffer-size 1M"
READERS = (
    "zbuf dump lab -w /dev/null tcp port 80",
    "zbuf measure lab --duration 3600",
    "zbuf dump lab -w /dev/null --join ids",
    "zbuf dump lab -w /dev/null --join ids",
)


@contextlib.contextmanager
def started(command: str, folder: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of the commands as a process, in `folder`, which is its run directory, too."""
    program, *arguments = command.split()
    process = subprocess.Popen(
        [str(COMMANDS / program), *arguments],
        cwd=folder,
        env={**os.environ, "ZBUF_RUN_DIR": folder},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_readers(captures: Captures, count: int) -> None:
    """Wait until a producer runs and has so many readers."""
    deadline = time.monotonic() + LIMIT_S
    while (found := readers_of(captures.update())) != count:
        if time.monotonic() > deadline:
            sys.exit(f"top.py: {found} readers are there after {LIMIT_S} s, not {count}: run the commands by hand")
        time.sleep(0.1)


def readers_of(seen: Sequence[Seen]) -> int:
    """How many readers there are; -1 where no producer answers."""
    found = [one.found for one in seen if one.found is not None]
    return sum(len(descriptor.readers) for one in found for descriptor in one.descriptors) if found else -1


def picture(folder: str) -> str:
    """What top shows after some updates."""
    subprocess.run([sys.executable, ROOT / "examples" / "make_capture.py", f"{folder}/mix.pcap"], check=True)
    with contextlib.ExitStack() as running, Captures([], folder) as captures:
        running.enter_context(started(PRODUCER, folder))
        wait_readers(captures, 0)
        for number, reader in enumerate(READERS, 1):
            process = running.enter_context(started(reader, folder))
            wait_readers(captures, number)
        process.send_signal(signal.SIGSTOP)
        for _ in range(UPDATES):
            time.sleep(DELAY_S)
            seen = captures.update()
        return draw(seen)  # while the readers run: their names are the kernel's


def draw(seen: Sequence[Seen]) -> str:
    """The screen as SVG, in whatever fixed-width font there is: a picture loads no fonts."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Screenful(seen, DELAY_S))
    picture = console.export_svg(title="zbuf top", unique_id="top")
    return re.sub(r" *@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="zbuf-") as folder:
        Path(sys.argv[1] if len(sys.argv) > 1 else PICTURE).write_text(picture(folder))
