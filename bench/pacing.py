"""Replay on a schedule, against tcpreplay: the highest rate that is held, and how late packets are.

Both read the same 64-byte packets from memory; zbufd offers them to one reader, which makes a NumPy index of every
buffer, and tcpreplay sends them into a veth pair, in a network namespace of this run's own.

The highest rate: zbufd is asked for more than any machine can do, and the rate that it reaches is bisected. A trial
holds its rate if zbufd's report says so, within 0.1 % of what was asked. Its reader may lose packets, as at any rate
that is too high for it, and a lost packet costs less than one that is kept; so the same is measured lossless, too. The
peer is tcpreplay --topspeed, which has no schedule to keep, and nobody at the other end.

The schedule's error: packet n of 100,000 a second is due n * 10 µs after the first. Its error is its time stamp minus
that time, minus the smallest of all these differences. zbufd's stamps are its own, as its reader finds them (--stamp
now: the moment at which a packet, or up to 16 that are due together, is offered). Beside them is what zbufd's report
says, which comes from its schedule, and not from the stamps. tcpreplay's stamps are the kernel's, at the other end of
the pair, so they have the way through the pair in them, as far as it varies. tcpreplay's timers take turns; the target
is for the best of them. Packets carry their numbers, so that a lost one shifts no other.

This needs root, and Debian's iproute2, tcpdump and tcpreplay.
"""

import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from bench import pipeline, tcpreplay
from bench.captures import NUMBER_AT, Capture, numbered
from bench.live import Link, missing
from bench.measure import Round, Row, Session, conditions, rate_in_words
from bench.pipeline import Times
from bench.stage import BenchError, Running, Stage
from bench.tcpreplay import Arrivals
from zbuf.consumer.reading.reader import Reader

_MOST_ROUNDS = 5
_TRIAL_S = 1.0
_STEPS = 8
"""Steps of the bisection: it ends within 1/256 of the rate that is reached when more is asked."""
_FASTEST_PPS = 10**9
_TOP_SPEED_PACKETS = 4_000_000
_TOP_SPEED_TARGET = 10.0

_PPS = 100_000
_PACKETS = 200_000
_PERIOD_NS = 10**9 // _PPS
_ERROR_TARGET = 1.0

_DROPPING, _LOSSLESS, _TCPREPLAY = "zbuf", "zbuf lossless", "tcpreplay --topspeed"


@dataclass(frozen=True)
class Trial:
    """A replay at a rate."""

    pps: float
    """The rate that was achieved."""
    held: bool
    dropped: float = 0.0
    """The share of the packets that the reader did not get."""


@dataclass(frozen=True)
class Errors:
    """How late packets were, in microseconds."""

    p50: float
    p99: float
    max: float
    lost: int
    """Packets that were lost."""
    reported_p99: float | None = None
    """The 99th percentile that the sender itself reports."""


def measure(session: Session) -> list[Row]:
    """Rows for the highest rate, and for the error at a rate that everybody holds."""
    lacking = missing("pacing", ip="iproute2", tcpreplay="tcpreplay", tcpdump="tcpdump")
    if lacking:
        return [Row("pacing", lacking)]
    session = dataclasses.replace(
        session, rounds=min(session.rounds, _MOST_ROUNDS), most_rounds=min(session.most_rounds, 2 * _MOST_ROUNDS)
    )
    link = Link()
    try:
        with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
            capture = numbered(Path(directory))
            return [*_highest_rates(session, link, capture), *_errors(session, link, capture)]
    finally:
        link.close()


# ---- zbufd ----------------------------------------------------------------------------------------------------------


def take_all(name: str, run_dir: str) -> Times:
    """Be a reader that makes an index of every buffer."""
    return pipeline.read(name, run_dir, lambda reader: sum(len(buffer.index()) for buffer in reader.buffers()))


def take_stamps(name: str, run_dir: str, packets: int) -> Times:
    """Be a reader that tells how late its packets are, by their stamps."""
    return pipeline.read_counts(name, run_dir, lambda reader: dataclasses.asdict(errors_of(_stamps(reader), packets)))


def _stamps(reader: Reader) -> Arrivals:
    numbers, times_ns = [], []
    for batch in reader.index_batches():
        places = batch.index["offset"].astype(numpy.int64) + NUMBER_AT
        numbers.append(sum(batch.data[places + at].astype(numpy.int64) << 8 * at for at in range(4)))
        times_ns.append(batch.index["time_ns"].astype(numpy.int64))
    return Arrivals(numpy.concatenate(numbers), numpy.concatenate(times_ns))


def errors_of(arrivals: Arrivals, packets: int) -> Errors:
    """How late numbered packets of the schedule were; the least late one counts as on time."""
    if not len(arrivals.numbers):
        raise BenchError(f"none of {packets:,} packets came")
    late_ns = arrivals.times_ns - arrivals.numbers * _PERIOD_NS
    p50, p99, highest = numpy.percentile((late_ns - late_ns.min()) / 1000, [50, 99, 100]).tolist()
    return Errors(p50, p99, highest, packets - len(arrivals.numbers))


def _replay(stage: Stage, capture: Capture, pps: float, seconds: float, *options: str) -> Running:
    program = str(Path(sys.executable).with_name("zbufd"))
    place = ["--name", stage.name, "--run-dir", str(stage.directory), "--wait-readers", "1", "--json"]
    schedule = ["--pps", f"{pps:.0f}", "--duration", f"{seconds:g}"]
    return stage.start([program, "replay", capture.path, *place, *schedule, *options])


def _try(capture: Capture, seconds: float, pps: float, *options: str) -> Trial:
    with Stage() as stage:
        replaying = _replay(stage, capture, pps, seconds, *options)
        reading = stage.call(take_all, **stage.place)
        report = json.loads(replaying.output())
        reading.output()
    pacing, ledger = report["pacing"], report["descriptors"][0]
    return Trial(pacing["achieved_pps"], pacing["held"], ledger["dropped"] / ledger["received"])


def highest_held(trial: Callable[[float], Trial], steps: int) -> Trial:
    """Find the trial with the highest rate that was held, by bisection; 0 packets per second if none was held."""
    low, high = 0.0, trial(_FASTEST_PPS).pps
    best = Trial(0.0, False)
    for _ in range(steps):
        middle = (low + high) / 2
        one = trial(middle)
        if one.held:
            low, best = middle, one
        else:
            high = middle
    return best


# ---- the highest rate -----------------------------------------------------------------------------------------------


def _highest_rates(session: Session, link: Link, capture: Capture) -> list[Row]:
    seconds, steps = _TRIAL_S / session.shorten, session.scaled(_STEPS)
    loops = capture.loops(session.scaled(_TOP_SPEED_PACKETS))
    contestants = {
        _DROPPING: lambda: highest_held(lambda pps: _try(capture, seconds, pps), steps),
        _LOSSLESS: lambda: highest_held(lambda pps: _try(capture, seconds, pps, "--lossless"), steps),
        _TCPREPLAY: lambda: Trial(tcpreplay.top_speed(link, capture, loops), True),
    }
    turns = session.take_turns("pacing: highest rate", contestants, lambda one: 1 if one == _TCPREPLAY else 2)
    name = "highest rate held within 0.1 %"
    return [
        _rate_row(name, _DROPPING, *turns, _TOP_SPEED_TARGET),
        _rate_row(f"{name}, lossless", _LOSSLESS, *turns, None),
    ]


def _rate_row(
    name: str, one: str, counted: Sequence[Round[Trial]], rounds: Sequence[Round[Trial]], target: float | None
) -> Row:
    ratios = [found.outcomes[one].pps / found.outcomes[_TCPREPLAY].pps for found in counted]
    pps, peer_pps = (statistics.median(found.outcomes[who].pps for found in counted) for who in (one, _TCPREPLAY))
    dropped = statistics.median(found.outcomes[one].dropped for found in counted)
    return _row(
        name,
        f"{rate_in_words(pps)}, {dropped:.1%} dropped",
        f"{_TCPREPLAY} {rate_in_words(peer_pps)}",
        ratios,
        target,
        conditions(counted),
        peer=_TCPREPLAY,
        rounds=list(map(dataclasses.asdict, rounds)),
    )


# ---- the error ------------------------------------------------------------------------------------------------------


def _errors(session: Session, link: Link, capture: Capture) -> list[Row]:
    packets = session.scaled(_PACKETS)

    def peer(timer: str) -> Callable[[], Errors]:
        return lambda: errors_of(tcpreplay.paced(link, capture, timer, _PPS, packets), packets)

    contestants = {"zbuf": lambda: replay_errors(capture, packets)} | {one: peer(one) for one in tcpreplay.TIMERS}
    counted, rounds = session.take_turns("pacing: schedule error", contestants, lambda _: 2)
    best = min(tcpreplay.TIMERS, key=lambda timer: _median(counted, timer, "p99"))
    return [_error_row(timer, timer == best, counted, rounds) for timer in tcpreplay.TIMERS]


def replay_errors(capture: Capture, packets: int) -> Errors:
    """Replay so many packets: what zbufd's reader finds, and what zbufd reports."""
    with Stage() as stage:
        replaying = _replay(stage, capture, _PPS, packets / _PPS, "--stamp", "now")
        reading = stage.call(take_stamps, **stage.place, packets=packets)
        report = json.loads(replaying.output())
        found: Mapping[str, float] = reading.result()
    seen = {one.name: found[one.name] for one in dataclasses.fields(Errors)}
    return Errors(**seen | {"reported_p99": report["pacing"]["lag_us"]["p99"]})


def _error_row(timer: str, is_best: bool, counted: Sequence[Round[Errors]], rounds: Sequence[Round[Errors]]) -> Row:
    ratios = [one.outcomes[timer].p99 / one.outcomes["zbuf"].p99 for one in counted]
    reported = statistics.median(one.outcomes["zbuf"].reported_p99 or 0.0 for one in counted)
    return _row(
        f"schedule error at {_PPS:,} packets/s, p99",
        f"{_in_words(counted, 'zbuf')}; reported {reported:.1f} µs",
        f"tcpreplay -T {timer} {_in_words(counted, timer)}",
        ratios,
        _ERROR_TARGET if is_best else None,
        conditions(counted),
        peer=f"tcpreplay -T {timer}",
        rounds=list(map(dataclasses.asdict, rounds)),
    )


def _in_words(rounds: Sequence[Round[Errors]], who: str) -> str:
    p50, p99 = (_median(rounds, who, what) for what in ("p50", "p99"))
    lost = sum(one.outcomes[who].lost for one in rounds)
    return f"{p99:.1f} µs (p50 {p50:.2f} µs)" + (f", {lost:,} lost" if lost else "")


def _median(rounds: Sequence[Round[Errors]], who: str, what: str) -> float:
    return statistics.median(float(getattr(one.outcomes[who], what)) for one in rounds)


def _row(
    name: str, zbuf: str, peer_words: str, ratios: Sequence[float], target: float | None, ran: str, **data: object
) -> Row:
    return Row(name, zbuf, peer_words, conditions=ran, data=data).compared(ratios, target)
