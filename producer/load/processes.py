"""The processes that read: each descriptor's readers by name.

The kernel told the producer their process ids when they connected (SO_PEERCRED), so a reader can't claim another's
name; /proc/PID/comm has the name while the process lives.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zbuf.shared.control.statistics import DescriptorStatistics
from zbuf.shared.names import printable


@dataclass(frozen=True)
class Process:
    """A reader's process."""

    pid: int
    name: str
    """The kernel's name for it (proc(5), /proc/PID/comm); "?" if it had ended already."""

    def __str__(self) -> str:
        """Such as "tshark (4711)"."""
        return f"{self.name} ({self.pid})"


class Processes:
    """The processes that were seen on descriptors, in the order in which they were seen."""

    def __init__(self) -> None:
        self.found: dict[int, list[Process]] = {}
        """By the numbers of the descriptors."""

    def see(self, descriptors: Sequence[DescriptorStatistics]) -> None:
        """Note the readers of these descriptors that were not noted before."""
        for one in descriptors:
            noted = self.found.setdefault(one.descriptor, [])
            known = {process.pid for process in noted}
            noted += [
                Process(pid, name_of(pid)) for pid in {reader.pid: 0 for reader in one.readers} if pid not in known
            ]


def name_of(pid: int) -> str:
    """The name of a process, fit to be printed; "?" if there is none of that number."""
    try:
        return printable(Path(f"/proc/{pid}/comm").read_bytes().decode(errors="replace").rstrip("\n"))
    except OSError:
        return "?"


def print_processes(found: dict[int, list[Process]]) -> None:
    """Print a line for each descriptor whose readers were seen."""
    for number, processes in sorted(found.items()):
        if processes:
            sys.stdout.write(f"descriptor {number} was read by {', '.join(map(str, processes))}\n")
