"""The schedule of a replay: against a clock that the tests turn, and for real."""

import json
import math
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.captures import Record, pcap, pcapng
from support.commands import Commands, end, error_of, run, wait_line
from support.processes import LIMIT_S, numbered, take
from support.rig import wait_until

from zbuf.consumer import connect
from zbuf.producer import Producer
from zbuf.producer.load.replay.report import pacing_of
from zbuf.producer.load.schedule import Ramp, Schedule, parse_rate
from zbuf.producer.sources.files.file_source import FileSource
from zbuf.producer.sources.pace import Pace
from zbuf.producer.sources.python import ScapySource
from zbuf.shared.errors import ValueRefused

SECOND = 10**9
START = 7 * SECOND


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> None:
    """Every test here has a run directory of its own."""


class Clock:
    """Tells one moment after the other, each once, the last one for ever; all are after START."""

    def __init__(self, moments: Iterable[int]) -> None:
        self._moments = iter([0, *moments])
        self._last = 0

    def __call__(self) -> int:
        self._last = next(self._moments, self._last)
        return START + self._last


def one_before_each(dues: Iterable[int]) -> list[int]:
    """Moments at which a packet that came early, and one that came late, would be found out: a look before, and one."""
    found: list[int] = []
    for due in dues:
        if due > (found[-1] if found else 0):
            found.append(due - 1)
        found.append(due)
    return found


def offered_at(pace: Pace, packets: Iterable[tuple[int, int]]) -> list[int]:
    """When packets of (time_ns, wirelen) are offered, after START."""
    found: list[int] = []
    for packet in packets:
        moment = None
        while moment is None and not pace.over:
            moment = pace.hold(*packet)
        if moment is None:
            break
        found.append(moment - START)
    return found


def ceilings(times: Iterable[Fraction]) -> list[int]:
    return [math.ceil(one) for one in times]


# ---- the schedule, to the nanosecond ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", ["1", "3", "7.5", "0.001", "100k", "333333.333", "1e9", "123456789", "0.000001"])
def test_packets_per_second_are_exact(rate: str) -> None:
    pps = parse_rate(rate)
    dues = ceilings(Fraction(number * SECOND) / pps for number in range(500))
    pace = Schedule(pps=pps, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(0, 60)] * 500) == dues


def test_errors_do_not_add_up_over_years() -> None:
    mbps, size = parse_rate("7.300000007"), 2**32 - 1
    dues = ceilings(Fraction(8000 * size * number) / mbps for number in range(20_000))
    assert dues[-1] > 2 * 365 * 86400 * SECOND
    pace = Schedule(mbps=mbps, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(0, size)] * len(dues)) == dues


def test_bits_per_second_count_what_was_on_the_wire() -> None:
    sizes = [random.Random(5).randrange(0, 65536) for _ in range(400)]
    mbps = parse_rate("12.34")
    dues = ceilings(Fraction(8000 * sum(sizes[:number])) / mbps for number in range(400))
    pace = Schedule(mbps=mbps, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(0, size) for size in sizes]) == dues
    assert pace.wire_bytes == sum(sizes)


@pytest.mark.parametrize("multiplier", ["1", "2", "0.5", "3", "1000000"])
def test_recorded_gaps_are_kept_and_time_that_goes_back_is_none(multiplier: str) -> None:
    speed = parse_rate(multiplier)
    stamps = [50, 50 + SECOND, 49, 10, 10, SECOND, 0, 0, 60 + SECOND, 69 + SECOND, 0, 5, 2**64 - 1 - 10**17, 7]
    gaps = [0, SECOND, 0, 0, 0, 0, 0, 0, 10, 9, 0, 0, 2**61, 0]
    dues = ceilings(Fraction(min(sum(gaps[: number + 1]), 2**61)) / speed for number in range(len(gaps)))
    dues = [due for due in dues if due < 2**61]
    assert len(dues) >= len(gaps) - 2
    pace = Schedule(multiplier=speed, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(stamp, 60) for stamp in stamps[: len(dues)]]) == dues


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_time_goes_on_from_the_latest_stamp_where_two_interfaces_take_turns(steps: int) -> None:
    stamps = [SECOND * (1 + turn * 10 + at) for turn in range(steps) for _ in range(2) for at in range(10)]
    dues = [max(stamps[: number + 1]) - SECOND for number in range(len(stamps))]
    pace = Schedule(multiplier=Fraction(1), stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(stamp, 60) for stamp in stamps]) == dues


def test_between_two_files_no_time_passes(tmp_path: Path, producer_name: str, run_dir: Path) -> None:
    paths = []
    for name, start in (("a", 1_700_000_000), ("b", 1_700_100_000), ("c", 1_600_000_000)):
        records = [Record(b"x", (start + second) * SECOND, 1) for second in range(3)]
        paths.append(tmp_path / name)
        paths[-1].write_bytes(pcap(records))
    pace = Schedule(multiplier=Fraction(100)).pace()
    source = FileSource([str(path) for path in paths])
    with Producer(producer_name, run_dir=run_dir, interfaces=source.interfaces) as producer:
        assert producer.publish(source, pace=pace) == 9
    assert pace is not None
    assert 0.05 < pace.seconds < 10


def test_long_gaps_are_cut() -> None:
    stamps = [SECOND, 3 * SECOND, 4 * SECOND, 100_000 * SECOND]
    dues = [0, 1_500_000_000, 2_500_000_000, 4_000_000_000]
    pace = Schedule(multiplier=Fraction(1), max_gap_s=1.5, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(stamp, 60) for stamp in stamps]) == dues


@pytest.mark.parametrize("ramp", ["0:1000:2", "10:1000:2", "1000:10:1", "500:500:1", "1000:0:1"])
def test_a_ramp_is_where_its_integral_is(ramp: str) -> None:
    parsed = Ramp.parse(ramp)
    first, last, seconds = parsed.first, parsed.last, parsed.seconds
    dues = []
    for number in range(1500):
        low, high = 0, 2**62
        while low < high:  # the first nanosecond by which so many packets are due
            middle = (low + high) // 2
            if integral(first, last, seconds, Fraction(middle, SECOND)) >= number:
                high = middle
            else:
                low = middle + 1
        dues.append(low)
    ends = [due for due in dues if due < 2**61]
    pace = Schedule(ramp=parsed, stamp="now").pace(Clock(range_around(ends)))
    assert pace is not None
    found = offered_at(pace, [(0, 60)] * len(dues))
    assert len(found) == len(ends)
    assert all(abs(one - due) <= 1 for one, due in zip(found, ends, strict=True))
    assert pace.over == (last == 0)


def integral(first: Fraction, last: Fraction, seconds: float, time: Fraction) -> Fraction:
    """Packets due by a time: the area under the ramp."""
    length = Fraction(seconds)
    on_ramp = min(time, length)
    slope = (last - first) / length
    return first * on_ramp + slope * on_ramp * on_ramp / 2 + last * (time - on_ramp)


def range_around(dues: Iterable[int]) -> list[int]:
    """A floating-point due may be a nanosecond off."""
    return sorted({moment for due in dues for moment in range(due - 3, due + 4) if moment >= 0})


def test_bursts_come_together_when_their_first_is_due() -> None:
    dues = [SECOND * (number // 4 * 4) // 100 for number in range(50)]
    pace = Schedule(pps=Fraction(100), burst=4, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(0, 60)] * 50) == dues


def test_what_was_late_does_not_make_the_next_late() -> None:
    late, on_time = 5 * SECOND + 77, 8 * SECOND
    pace = Schedule(pps=Fraction(1), stamp="now").pace(Clock([0, SECOND, *[late] * 4, on_time]))
    assert pace is not None
    assert offered_at(pace, [(0, 60)] * 9) == [0, SECOND, *[late] * 4, *[on_time] * 3]
    assert pace.behind == 5
    assert pace.max_lag_ns == 3 * SECOND + 77
    assert pace.packets_per_second == 1.0
    assert pace.pace == 1.0


def test_lag_is_told_within_three_percent() -> None:
    lags = [random.Random(3).randrange(0, 10**9) for _ in range(1000)]
    pace = Schedule(pps=Fraction(1, 2), stamp="now").pace(
        Clock([2 * SECOND * number + lag for number, lag in enumerate(lags)])
    )
    assert pace is not None
    offered_at(pace, [(0, 60)] * 1000)
    lags.sort()
    assert pace.max_lag_ns == lags[-1]
    assert pace.behind == sum(lag > 1_000_000 for lag in lags)
    for rank in (1, 10, 500, 900, 990, 999):
        assert 0 <= pace.lag_ns(rank / 1000) - lags[rank - 1] <= 0.032 * lags[rank - 1]
    assert pace.lag_ns(1.0) == lags[-1]


def test_a_duration_ends_on_its_nanosecond() -> None:
    dues = [number * SECOND // 10 for number in range(30)]
    pace = Schedule(pps=Fraction(10), duration_s=2, stamp="now").pace(Clock(one_before_each(dues)))
    assert pace is not None
    assert offered_at(pace, [(0, 60)] * 100) == dues[:20]
    assert pace.over
    assert (pace.packets, pace.seconds, pace.packets_per_second) == (20, 2.0, 10.0)
    assert pace.hold(0, 60) is None


def test_a_rate_that_was_not_held_has_its_reason() -> None:
    schedule = Schedule(pps=Fraction(1000), duration_s=1.5)
    in_pairs = schedule.pace(Clock([0, 0, *(number // 2 * 2_000_000 + 2_000_000 for number in range(2000))]))
    assert in_pairs is not None
    offered_at(in_pairs, [(0, 60)] * 2000)
    pacing = pacing_of(schedule, in_pairs, waits=0)
    assert (pacing.held, pacing.asked, pacing.reason) == (True, "1,000 packets/s", None)
    stalled = schedule.pace(Clock([0, *[SECOND - 1] * 400]))
    assert stalled is not None
    offered_at(stalled, [(0, 60)] * 400)
    pacing = pacing_of(schedule, stalled, waits=0)
    assert not pacing.held
    assert pacing.reason == "99.8 % of the packets were over 1 ms late, 999.0 ms at most: this machine did not keep up"
    assert "waited 3 times" in str(pacing_of(schedule, stalled, waits=3).reason)


def test_a_rate_that_was_held_until_a_stall_at_the_end_was_not_held() -> None:
    schedule = Schedule(pps=Fraction(1000), duration_s=1, stamp="now")
    dues = [number * SECOND // 1000 for number in range(600)]
    stalled = schedule.pace(Clock([*one_before_each(dues), 2 * SECOND]))
    assert stalled is not None
    assert offered_at(stalled, [(0, 60)] * 2000) == dues
    assert (stalled.behind, stalled.packets_per_second, stalled.missed_ns) == (0, 600.0, 400_000_000)
    pacing = pacing_of(schedule, stalled, waits=0)
    assert pacing.deviation == pytest.approx(-0.4)
    assert pacing.held is False
    assert pacing.reason == "this machine did not keep up: the packets of the last 400.0 ms were not offered"


def test_a_rate_is_held_where_all_that_was_due_in_a_duration_was_offered() -> None:
    schedule = Schedule(pps=Fraction(3), duration_s=0.5)
    pace = schedule.pace(Clock(one_before_each([0, SECOND // 3 + 1, SECOND // 2])))
    assert pace is not None
    offered_at(pace, [(0, 60)] * 9)
    assert (pace.packets, pacing_of(schedule, pace, waits=0).held) == (2, True)


def test_whether_top_speed_was_held_is_not_a_question(producer_name: str, capture: Path) -> None:
    done = run("zbufd", "replay", capture, "--name", producer_name, "--duration", "0.01", "--json")
    pacing = json.loads(done.stdout)["pacing"]
    assert (pacing["asked"], pacing["deviation"], pacing["held"], pacing["reason"]) == ("top speed", None, None, None)


# ---- through the pump ------------------------------------------------------------------------------------------------


def replay(name: str, source: Any, schedule: Schedule, **options: Any) -> tuple[list[int], list[int], Pace]:
    """Numbers and times of what a reader gets of a replay."""
    pace = schedule.pace(options.pop("clock", None))
    assert pace is not None
    with Producer(name, interfaces=["a"], lossless=True) as producer, connect(name) as reader:
        producer.publish(source, pace=pace, **options)
        producer._owner.submit(producer._roster.finish).result()
        buffer = reader.next_buffer(timeout=LIMIT_S)
        assert buffer is not None
        found = [(int.from_bytes(bytes(packet)[:8], "little"), packet.time_ns) for packet in buffer]
        buffer.acknowledge()
    numbers, times = zip(*found, strict=True)
    return list(numbers), list(times), pace


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "lab.pcap"
    records = [Record(numbered(number), 1000 + number * 1_000_000, 60) for number in range(40)]
    path.write_bytes(pcap(records, nanoseconds=True))
    return path


class SlowClock:
    """Goes on by a millisecond each time that somebody looks, and remembers all that it told."""

    def __init__(self) -> None:
        self.told = [START]

    def __call__(self) -> int:
        self.told.append(self.told[-1] + 1_000_000)
        return self.told[-1]


@pytest.mark.parametrize("make_source", [lambda path: FileSource([path]), lambda path: ScapySource([path])])
def test_packets_carry_the_moment_at_which_they_were_offered(
    producer_name: str, capture: Path, make_source: Callable[[str], Any]
) -> None:
    clock = SlowClock()
    schedule = Schedule(pps=Fraction(100), stamp="now")
    numbers, times, pace = replay(producer_name, make_source(str(capture)), schedule, clock=clock)
    assert numbers == list(range(40))
    assert set(times) <= set(clock.told)
    dues = [times[0] + number * SECOND // 100 for number in range(40)]
    assert all(due - 1_000_000 <= time for time, due in zip(times, dues, strict=True))
    assert pace.packets == 40


@pytest.mark.parametrize("make_source", [lambda path: FileSource([path]), lambda path: ScapySource([path])])
def test_packets_keep_the_times_of_the_file(
    producer_name: str, capture: Path, make_source: Callable[[str], Any]
) -> None:
    numbers, times, _ = replay(producer_name, make_source(str(capture)), Schedule(pps=Fraction(10**6)))
    assert numbers == list(range(40))
    assert times == [1000 + number * 1_000_000 for number in range(40)]


def test_a_duration_ends_a_loop_without_end(producer_name: str, capture: Path) -> None:
    schedule = Schedule(pps=Fraction(100), duration_s=1, stamp="now")
    numbers, _, pace = replay(producer_name, FileSource([str(capture)]), schedule, loops=0, clock=SlowClock())
    assert numbers == [number % 40 for number in range(100)]
    assert (pace.packets, pace.over) == (100, True)


@pytest.mark.parametrize("limit", [1 << 30, 10], ids=["preloaded", "streamed"])
def test_more_loops_and_seconds_than_there_can_be_are_for_ever(producer_name: str, capture: Path, limit: int) -> None:
    pace = Schedule(duration_s=1e300, stamp="now").pace(SlowClock())
    assert pace is not None
    with Producer(producer_name, interfaces=["a"]) as producer:
        source = FileSource([str(capture)], preload_limit_bytes=limit)
        publishing = threading.Thread(target=producer.publish, args=(source,), kwargs={"loops": 10**30, "pace": pace})
        publishing.start()
        wait_until(lambda: producer.offered > 100)
        producer.stop()
        publishing.join(LIMIT_S)
        assert not publishing.is_alive()


def test_files_that_are_streamed_share_one_schedule(producer_name: str, capture: Path) -> None:
    source = FileSource([str(capture)], preload_limit_bytes=10)
    schedule = Schedule(pps=Fraction(100), duration_s=1, stamp="now")
    numbers, _, pace = replay(producer_name, source, schedule, loops=0, clock=SlowClock())
    assert numbers == [number % 40 for number in range(100)]
    assert (pace.packets, pace.over) == (100, True)


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["pcap", "scapy"])
def test_a_low_rate_for_real(commands: Commands, producer_name: str, capture: Path, engine: str) -> None:
    options = ["--pps", "200", "--duration", "1", "--stamp", "now", "--engine", engine, "--wait-readers", "1", "--json"]
    replaying = commands.start("zbufd", "replay", capture, "--name", producer_name, *options)
    wait_line(replaying.stderr, "ready in")
    with connect(producer_name) as reader:
        times = [packet.time_ns for packet in reader]
    report = json.loads(end(replaying).stdout)
    pacing = report["pacing"]
    assert report["packets"] <= 200
    assert len(times) == report["packets"]
    latest_ns = pacing["lag_us"]["max"] * 1000 + 1_000_000  # the wall clock is read a moment later
    assert all(time - times[0] >= number * SECOND // 200 - latest_ns for number, time in enumerate(times))
    in_time = abs(pacing["deviation"]) <= 0.001 and pacing["late_share"] <= 0.01
    assert pacing["held"] == in_time == (pacing["reason"] is None)
    assert pacing["asked"] == "200 packets/s"


def test_one_at_a_time_goes_by_what_is_said(commands: Commands, producer_name: str, capture: Path) -> None:
    options = ["--oneatatime", "--wait-readers", "1", "--json"]
    stepping = commands.start("zbufd", "replay", capture, "--name", producer_name, *options, stdin=subprocess.PIPE)
    assert stepping.stdin is not None
    wait_line(stepping.stderr, "ready in")
    with connect(producer_name, immediate=True) as reader:
        for said, count in (("\n", 1), ("3\n", 3), ("many\n\n", 1)):
            stepping.stdin.write(said)
            stepping.stdin.flush()
            assert len(take(reader, count)) == count
        stepping.stdin.write("q\n")
        stepping.stdin.flush()
        assert list(reader) == []
    done = end(stepping)
    assert json.loads(done.stdout)["packets"] == 5
    assert "zbufd: 'many' is not a number of packets" in done.stderr


def test_one_at_a_time_ends_with_its_duration_though_nobody_presses_a_key(
    commands: Commands, producer_name: str, capture: Path
) -> None:
    options = ["--oneatatime", "--duration", "0.3", "--json"]
    stepping = commands.start("zbufd", "replay", capture, "--name", producer_name, *options, stdin=subprocess.PIPE)
    assert stepping.wait(LIMIT_S) == 0
    assert stepping.stdout is not None
    report = json.loads(stepping.stdout.read())
    assert (report["packets"], report["seconds"]) == (0, 0.3)


def test_a_replay_that_waits_for_years_serves_readers_and_ends_at_once(
    commands: Commands, producer_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "gap.pcapng"
    path.write_bytes(pcapng([Record(numbered(number), SECOND + number * 10**17, 60) for number in range(2)]))
    replaying = commands.start("zbufd", "replay", path, "--name", producer_name, "-x", "1", "--json")
    wait_line(replaying.stderr, "ready in")
    with connect(producer_name) as reader:
        wait_until(lambda: reader.stats().offered == 1)
        reader.set_filter("tcp")
        replaying.send_signal(signal.SIGINT)
        assert list(reader) == []
    assert json.loads(end(replaying).stdout)["packets"] == 1


BAD_OPTIONS = [
    (["--pps", "0"], "'0' is out of range"),
    (["--pps", "-1"], "'-1' is not a rate"),
    (["--pps", "nan"], "'nan' is not a rate"),
    (["--pps", "inf"], "'inf' is not a rate"),
    (["--pps", "1e99"], "'1e99' is out of range"),
    (["--pps", "1e999999999"], "is not a rate"),
    (["--pps", "2G"], "'2G' is out of range: give from 1e-06 to 1e+09"),
    (["--pps", "9" * 100], "is not a rate"),
    (["--mbps", "0"], "'0' is out of range"),
    (["--mbps", "fast"], "'fast' is not a rate"),
    (["--multiplier", "0"], "'0' is out of range"),
    (["-x", "1e7"], "'1e7' is out of range"),
    (["--ramp", "1:2"], "'1:2' is not a ramp"),
    (["--ramp", "0:0:5"], "'0:0:5' goes from 0 to 0"),
    (["--ramp", "1:2:0"], "'0' is out of range"),
    (["--ramp", "-1:2:1"], "'-1' is not a rate"),
    (["--pps", "1", "--mbps", "1"], "--pps and --mbps are two speeds"),
    (["--pps", "1", "--oneatatime"], "--pps and --oneatatime are two speeds"),
    (["--pps", "1", "--topspeed"], "--topspeed and 1 packets/s are two speeds"),
    (["--burst", "2"], "bursts of 2 need a rate"),
    (["--burst", "0", "--pps", "1"], "'0' is not a whole number"),
    (["--max-gap", "2", "--pps", "1"], "--max-gap needs recorded time"),
    (["--duration", "0"], "it must be more than 0 seconds"),
    (["--duration", "-5"], "'-5' is not a number of seconds"),
    (["--duration", "1e300"], "'1e300' is not a number of seconds, from 0 to 1e+09"),
    (["--max-gap", "1e10", "-x", "1"], "'1e10' is not a number of seconds"),
    (["--stamp", "never"], "never"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS)
def test_speeds_that_make_no_sense_are_usage_errors(capture: Path, options: list[str], said: str) -> None:
    assert said in error_of(run("zbufd", "replay", capture, *options), 2)


def test_steps_and_a_capture_do_not_both_come_from_standard_input() -> None:
    assert "reads your keys from standard input" in error_of(run("zbufd", "replay", "-", "-o"), 2)


@pytest.mark.parametrize("options", [{"pps": Fraction(2 * 10**9)}, {"burst": 0, "pps": Fraction(1)}, {"duration_s": 0}])
def test_the_library_refuses_what_the_command_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ValueRefused):
        Schedule(**options)


def test_top_speed_has_no_pace() -> None:
    assert Schedule().pace() is None
    assert Schedule(duration_s=1).pace() is not None
    assert Schedule(stamp="now").pace() is not None


def test_a_pace_gives_its_file_descriptor_back() -> None:
    before = os.listdir("/proc/self/fd")
    paces: Iterator[Pace | None] = (Schedule(pps=Fraction(1)).pace() for _ in range(100))
    assert all(pace is not None for pace in paces)
    assert os.listdir("/proc/self/fd") == before
