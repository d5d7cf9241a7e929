"""Made-up statistics, and the updates that zbuf top makes from them."""

import os
from typing import Any

from zbuf.consumer.tools.top.rates import History, compare
from zbuf.consumer.tools.top.view import report
from zbuf.consumer.tools.top.watch import Seen
from zbuf.shared.control.settings import Settings
from zbuf.shared.control.statistics import (
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)

PAGE = 4096


def reader(number: int = 2, **counts: Any) -> ReaderStatistics:
    return ReaderStatistics(**{"reader": number, "pid": os.getpid(), "delivered": 0, "holding": 0} | counts)


def descriptor(number: int = 1, *readers: ReaderStatistics, **counts: Any) -> DescriptorStatistics:
    settings = Settings(filter=counts.pop("filter", ""), buffer_bytes=counts.pop("buffer_bytes", PAGE))
    fixed: dict[str, Any] = {"descriptor": number, "join": None, "settings": settings, "bells": 0, "open": True}
    return DescriptorStatistics(**fixed | {"readers": list(readers)} | counts)


def interface(name: str = "eth0", **counts: Any) -> InterfaceStatistics:
    fixed = dict.fromkeys(("received", "taken", "dropped_by_kernel", "dropped_by_interface", "lost"), 0)
    return InterfaceStatistics(**{"interface": name, "engine": "pcap", "state": "up"} | fixed | counts)


def producer(uptime_s: float, *descriptors: DescriptorStatistics, **more: Any) -> Statistics:
    fixed: dict[str, Any] = {"producer": "lab", "pid": 7, "epoch": 1, "linktypes": [1], "interfaces": ["eth0"]}
    counts = {"offered": 0, "waits": 0, "closed": Ledger()}
    return Statistics(**fixed | counts | {"uptime_s": uptime_s, "descriptors": list(descriptors)} | more)


def seen(now: Statistics, before: Statistics | None = None) -> Seen:
    return Seen(now.producer, History().note(compare(before, now)))


def text_of(*updates: Seen) -> list[str]:
    return [line.plain for line in report(updates)]
