"""When a dump's files end by the clock, what they are called, and that a quiet time leaves no files."""

import os
import time
from pathlib import Path
from typing import Any, cast

import pytest

from zbuf.consumer.tools.dump.blocks import Blocks
from zbuf.consumer.tools.dump.savefiles import FileLimits, Names, Savefiles, dated_names, ring_names
from zbuf.shared.control.statistics import Ledger

START = 1_700_000_000.75


class FakeClock:
    """Time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - 1_000_000


class FakeFile:
    """A file of packets without bytes."""

    def __init__(self, path: str, log: list[str]) -> None:
        self.path = path
        self.packets = 0
        self._log = log

    def take(self, _: Blocks, first: int, last: int) -> None:
        self.packets += last - first

    def finish(self, _: Ledger) -> None:
        self._log.append(f"{self.path}:{self.packets}")

    def discard(self) -> None:
        assert self.packets == 0


class FakeBlocks:
    def __init__(self, packets: int) -> None:
        self.packets = packets


class FakeReader:
    def ledger(self) -> Ledger:
        return Ledger()


class Rotating:
    """Savefiles with a fake clock; `log` has the files that are whole, and how many packets each has."""

    def __init__(self, names: Names, limits: FileLimits, keep: int | None = None) -> None:
        self.clock = FakeClock()
        self.log: list[str] = []
        self.ended: list[str] = []
        self.files = Savefiles(
            cast(Any, FakeReader()),
            lambda path: cast(Any, FakeFile(path, self.log)),
            names,
            limits,
            keep,
            ended=self.ended.append,
            clock=self.clock,
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and wake up at each deadline on the way, as a dump does."""
        until = self.clock.now + seconds
        while self.files.deadline is not None and (due := self.files.deadline + 1_000_000) <= until:
            self.clock.now = max(self.clock.now, due)
            self.files.tick()
        self.clock.now = until

    def packets(self, count: int = 1) -> int:
        return self.files.take(cast(Any, FakeBlocks(count)), count)

    def finish(self) -> list[str]:
        self.files.finish(Ledger())
        return self.log


# ---- tcpdump's periods ----------------------------------------------------------------------------------------------


def test_file_is_named_for_the_period_of_its_packets_after_a_quiet_time() -> None:
    rotating = Rotating(dated_names("%s"), FileLimits(period=2))
    rotating.packets()
    rotating.pass_time(7.5)
    rotating.packets(3)
    assert rotating.finish() == ["1700000000:1", "1700000008:3"]
    assert rotating.ended == ["1700000000", "1700000008"]


def test_periods_follow_each_other_without_drift_however_late_the_dump_wakes_up() -> None:
    rotating = Rotating(dated_names("%s"), FileLimits(period=10))
    for _ in range(4):
        rotating.packets()
        rotating.clock.now += 10.2  # a busy machine
        rotating.files.tick()
    assert rotating.finish() == [f"17000000{number}0:1" for number in range(4)] + ["1700000040:0"]


def test_so_many_periods_end_the_dump_after_so_much_time_without_a_packet() -> None:
    rotating = Rotating(dated_names("%s"), FileLimits(period=3, files=4))
    rotating.pass_time(11.9)
    assert not rotating.files.finished
    rotating.pass_time(0.2)
    assert rotating.files.finished
    assert rotating.finish() == ["1700000009:0"]


def test_one_period_ends_exactly_after_its_length() -> None:
    rotating = Rotating(dated_names("%s"), FileLimits(period=3, files=1))
    assert rotating.files.deadline == START - 1_000_000 + 3


def test_dump_that_was_stopped_for_several_periods_goes_on_in_the_present_one() -> None:
    rotating = Rotating(dated_names("%s"), FileLimits(period=10, files=9))
    rotating.packets()
    rotating.clock.now += 35
    rotating.files.tick()
    rotating.packets()
    assert rotating.finish() == ["1700000000:1", "1700000030:1"]


def test_files_of_one_period_share_its_name_and_its_end() -> None:
    rotating = Rotating(dated_names("%s."), FileLimits(period=10, packets=2))
    rotating.packets(5)
    rotating.pass_time(10)
    rotating.packets(1)
    assert rotating.finish() == ["1700000000.:2", "1700000000.1:2", "1700000000.2:1", "1700000010.:1"]


# ---- dumpcap's durations --------------------------------------------------------------------------------------------


def stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def test_duration_ends_a_file_with_packets_and_one_without_alike() -> None:
    rotating = Rotating(ring_names("r.pcapng"), FileLimits(seconds=2.5))
    rotating.packets(3)
    rotating.pass_time(8)
    rotating.packets(2)
    assert rotating.finish() == [f"r_00001_{stamp(START)}.pcapng:3", f"r_00004_{stamp(START + 7.5)}.pcapng:2"]


def test_duration_counts_from_the_beginning_of_each_file() -> None:
    rotating = Rotating(ring_names("r"), FileLimits(seconds=10, packets=2))
    rotating.pass_time(8)
    rotating.packets(3)
    assert rotating.files.deadline == rotating.clock.monotonic() + 10


def test_so_many_durations_end_the_dump_without_a_packet() -> None:
    rotating = Rotating(ring_names("r"), FileLimits(seconds=2, files=2))
    rotating.pass_time(3.9)
    assert not rotating.files.finished
    rotating.pass_time(0.2)
    assert rotating.files.finished
    assert rotating.files.deadline is None
    assert rotating.finish() == [f"r_00002_{stamp(START + 2)}:0"]


def test_interval_ends_a_file_where_the_time_of_day_is_a_multiple_of_it() -> None:
    rotating = Rotating(ring_names("r"), FileLimits(interval=60))
    assert rotating.files.deadline == rotating.clock.monotonic() + 60 - START % 60


def test_quiet_time_pushes_no_file_out_of_a_ring(tmp_path: Path) -> None:
    rotating = Rotating(ring_names(str(tmp_path / "r")), FileLimits(seconds=1), keep=2)
    for _ in range(3):
        (tmp_path / os.path.basename(rotating.files._file.path)).touch()
        rotating.packets()
        rotating.pass_time(5)
    assert [file.name[:7] for file in sorted(tmp_path.iterdir())] == ["r_00011"]  # and the present one, which is empty


@pytest.mark.parametrize("limits", [FileLimits(period=1e10), FileLimits(seconds=1e9)], ids=["G", "b"])
def test_period_may_be_longer_than_anybody_waits(limits: FileLimits) -> None:
    rotating = Rotating(dated_names("%s"), limits)
    rotating.pass_time(1e8)
    rotating.packets()
    assert rotating.finish() == ["1700000000:1"]
