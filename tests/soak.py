"""``make soak``: a capture for as long as is wanted, with readers that come, go, stall and die; watches what grows.

It captures on a wire of its own, which takes root. Memory, file descriptors, threads and segments of the daemon are
noted after each round. What grows from round to round is a leak: after a warm-up, the median of the last third may
exceed that of the first third by the allowances below, and no more. The ledgers must add up always.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # so that "support" is found

from support.commands import Commands
from support.live_lab import LiveLab, frame, send
from support.network import network
from support.processes import open_fds

ALLOWED = {"memory_kib": 2048, "file_descriptors": 2, "threads": 4, "segments": 0}
"""Python's allocator keeps some; a file descriptor may be open for a moment; up to four threads compile filters."""

_WARM_UP_ROUNDS = 3


class Soak:
    """One daemon, and rounds of readers.

    Args:
        commands: starts them.
        lab: the daemon, and the wire that it captures on.
        seed: of what happens.
    """

    def __init__(self, commands: Commands, lab: LiveLab, seed: int) -> None:
        self._commands = commands
        self._lab = lab
        self._chance = random.Random(seed)
        self.noted: list[dict[str, int]] = []

    def round(self) -> dict[str, int]:
        """Readers come, packets flow, some of the readers stall, some die, all go; then note what the daemon has."""
        chance, lab = self._chance, self._lab
        readers = [self._start_reader() for _ in range(chance.randint(3, 8))]
        self._wait_readers()
        for one in readers:
            if chance.random() < 0.3:
                one.send_signal(signal.SIGSTOP)
        frames = [frame(number, chance.randint(60, 1400)) for number in range(2000)]
        before = self._stats()["offered"]
        send(lab.network, frames)
        lab.wait_offered(before + len(frames))
        if chance.random() < 0.2:
            lab.network.ip("link", "set", "zb", "down")
            lab.network.ip("link", "set", "zb", "up")
        for one in readers:
            one.send_signal(signal.SIGCONT)
            one.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            one.communicate()
        while self._stats()["descriptors"]:
            time.sleep(0.01)
        self.noted.append(self._note())
        return self.noted[-1]

    def _start_reader(self) -> "subprocess.Popen[str]":
        options = self._chance.choice([[], ["--join", "shared"], ["--immediate-mode"], ["--buffer-size", "64K"]])
        expression = self._chance.choice(["", "less 500", "greater 1000"])
        return self._commands.start("zbuf", "dump", self._lab.name, "-w", "/dev/null", *options, expression)

    def _wait_readers(self) -> None:
        """Until one is there at least: who joins with other settings than the first is refused, and ends."""
        while not self._stats()["descriptors"]:
            time.sleep(0.01)

    def _stats(self) -> dict[str, Any]:
        found = self._lab.stats()
        for one in [*found["descriptors"], found["closed"]]:
            assert one["received"] == one["filtered"] + one["accepted"], one
            assert one["accepted"] == one["delivered"] + one["dropped"] + one["abandoned"] + one["buffered"], one
        return found

    def _note(self) -> dict[str, int]:
        pid = self._lab.process.pid
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return {
            "memory_kib": next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:")),
            "file_descriptors": open_fds(pid),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
            "segments": len(list(Path("/dev/shm").glob(f"zbuf.{self._lab.name}.*"))),
        }

    def verdict(self) -> list[str]:
        """What has grown, one line each."""
        counted = self.noted[_WARM_UP_ROUNDS:]
        third = max(1, len(counted) // 3)
        grown = []
        for what, allowance in ALLOWED.items():
            first, last = (statistics.median(one[what] for one in part) for part in (counted[:third], counted[-third:]))
            if last - first > allowance:
                grown.append(f"{what} grew from {first:g} to {last:g}, {allowance} is allowed")
        return grown


@contextlib.contextmanager
def soaking(seed: int) -> Iterator[Soak]:
    """A daemon on a wire of its own, and everything gone afterwards."""
    with contextlib.ExitStack() as cleaning:
        os.environ["ZBUF_RUN_DIR"] = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="zb"))
        commands = cleaning.enter_context(contextlib.closing(Commands()))
        wire = cleaning.enter_context(network())
        lab = LiveLab(wire, commands, f"soak{os.getpid()}", "-i", "zb", "--log-format", "text", "--buffer-size", "256K")
        yield Soak(commands, lab, seed)
        lab.signal(signal.SIGTERM)
        assert lab.process.wait(20) == 0


def main() -> None:
    """Soak, say how it goes, and exit 1 where something grew."""
    parser = argparse.ArgumentParser(description="Watch a capture daemon for leaks.")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("soak: needs root, for a wire of its own: sudo make soak")
    deadline = time.monotonic() + 60 * options.minutes
    with soaking(options.seed) as soak:
        while time.monotonic() < deadline or len(soak.noted) < 2 * _WARM_UP_ROUNDS:
            sys.stdout.write(f"round {len(soak.noted) + 1}: {json.dumps(soak.round())}\n")
            sys.stdout.flush()
        grown = soak.verdict()
    sys.stdout.write("\n".join(grown or ["nothing grew, and every ledger added up"]) + "\n")
    sys.exit(bool(grown))


if __name__ == "__main__":
    main()
