"""A description of this machine, for comparing numbers that were measured on it."""

import os
import platform
from pathlib import Path
from typing import TypedDict


class Facts(TypedDict):
    """A machine in a few words."""

    processor: str
    processors: int
    processors_allowed: int
    """How many processors this process may run on."""
    memory_bytes: int
    system: str
    load_average: tuple[float, float, float]
    """Processes that ran, or wanted to, on average over 1, 5 and 15 minutes: see getloadavg(3)."""


def facts() -> Facts:
    """Describe this machine as it is now."""
    return Facts(
        processor=_processor(),
        processors=os.cpu_count() or 1,
        processors_allowed=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(),
        load_average=os.getloadavg(),
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
