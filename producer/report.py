"""The report at the end of a replay."""

import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from zbuf.shared.commandline import print_ledgers
from zbuf.shared.control import Statistics


@dataclass(frozen=True)
class Report:
    """What was offered, how fast, and what became of it."""

    packets: int
    """Offered to the descriptors."""
    seconds: float
    """From the first packet to the last."""
    statistics: Statistics
    """Of the producer when all was over."""
    warnings: list[str]
    """Damage in the files."""

    def finished(self, statistics: Statistics, warnings: list[str]) -> "Report":
        """This report, with what was known only after the readers had taken everything."""
        return replace(self, statistics=statistics, warnings=warnings)

    @property
    def packets_per_second(self) -> float:
        """The rate at which packets were offered."""
        return self.packets / self.seconds if self.seconds else 0.0

    def as_json(self) -> str:
        """The report as one JSON object."""
        body: dict[str, Any] = {
            "producer": self.statistics.producer,
            "packets": self.packets,
            "seconds": self.seconds,
            "packets_per_second": self.packets_per_second,
            "waits": self.statistics.waits,
            "warnings": self.warnings,
            "descriptors": msgspec.to_builtins(self.statistics.descriptors),
        }
        return json.dumps(body, indent=2)

    def print(self) -> None:
        """The report for people, on stdout."""
        rate = f"{self.packets_per_second:,.0f} packets/s"
        sys.stdout.write(f"{self.packets:,} packets offered in {self.seconds:.3f} s: {rate}\n")
        if self.statistics.descriptors:
            print_ledgers(self.statistics.descriptors)
        else:
            sys.stdout.write("no reader was connected\n")
