"""One-way latency: how long a small message takes from one Python process to another.

Timed: the sender writes time.time_ns() into a message of 64 bytes and sends it; the receiver, once it has the bytes,
subtracts that from the time. There is a message every 200 µs. Every sender waits for its moment by looking at the
clock, so one of the processors is always busy with that. One process sends and another receives; each run has new
processes, and its first messages don't count. zbuf sends by Producer.append(), and receives by ``for packet in
reader``, with immediate=True.

Against: multiprocessing.Pipe, pyzmq's PUSH and PULL over ipc, and iceoryx2's publish-subscribe, each blocking and
looking all the time; see bench.messages. pyzmq has a thread in each of the processes; on two processors, it may have to
wait for one.

The ratio is the peer's latency divided by zbuf's: above 1, zbuf is faster.
"""

import dataclasses
import statistics
import struct
import time
from collections.abc import Mapping, Sequence

import numpy

from bench.measure import Round, Row, Session, conditions
from bench.messages import MESSAGE_BYTES, PIPE_BLOCKING, WAYS, ZBUF_SLEEPING, ZBUF_SPINNING, Receive, Send
from bench.stage import Stage

_MESSAGES = 5_000
_WARM_UP = 500
_GAP_NS = 200_000
_PERCENTILES = (50, 99)
_STAMP = struct.Struct("<q")

Latencies = Mapping[str, float]
"""In microseconds, by percentile: p50, p99."""
Rounds = Sequence[Round[Latencies]]


# ---- a run ----------------------------------------------------------------------------------------------------------


def exchange(way: str, messages: int, name: str, run_dir: str) -> Latencies:
    """Be the receiver, and start the sender."""
    latencies = WAYS[way].talk(
        name,
        run_dir,
        MESSAGE_BYTES,
        lambda send: _send_all(send, messages),
        lambda receive: _receive_all(receive, messages),
    )
    of_all = numpy.percentile(latencies[_WARM_UP:], _PERCENTILES) / 1000
    return {f"p{percentile}": float(one) for percentile, one in zip(_PERCENTILES, of_all, strict=True)}


def _send_all(send: Send, messages: int) -> None:
    message = bytearray(MESSAGE_BYTES)
    due = time.time_ns()
    for _ in range(messages):
        due += _GAP_NS
        while (now := time.time_ns()) < due:
            pass
        _STAMP.pack_into(message, 0, now)
        send(bytes(message))
        due = max(due, now)  # after a late message, the next ones are not early


def _receive_all(receive: Receive, messages: int) -> list[int]:
    latencies = []
    for _ in range(messages):
        message = receive()
        latencies.append(time.time_ns() - _STAMP.unpack_from(message)[0])
    return latencies


# ---- the measure ----------------------------------------------------------------------------------------------------


def measure(session: Session) -> list[Row]:
    """A row for each of zbuf's two ways, each peer and each percentile."""
    messages = _WARM_UP + session.scaled(_MESSAGES)
    here = [name for name, way in WAYS.items() if not way.missing]
    runs = {name: lambda name=name: _run(name, messages) for name in here}
    counted, rounds = session.take_turns("latency", runs, lambda _: 2)
    return [
        _row(zbuf, peer, f"p{percentile}", counted, rounds)
        for zbuf in (ZBUF_SPINNING, ZBUF_SLEEPING)
        for peer in WAYS
        for percentile in _PERCENTILES
        if _compares(zbuf, peer)
    ]


def _run(way: str, messages: int) -> Latencies:
    with Stage() as stage:
        return stage.call(exchange, way=way, messages=messages, **stage.place).result()


def _compares(zbuf: str, peer: str) -> bool:
    """Compare a reader that spins with all peers, and one that sleeps with the peers that sleep."""
    return not peer.startswith("zbuf") and (zbuf == ZBUF_SPINNING or peer.endswith("blocking"))


def _row(zbuf: str, peer: str, percentile: str, counted: Rounds, rounds: Rounds) -> Row:
    target = 1.0 if zbuf == ZBUF_SPINNING or peer == PIPE_BLOCKING else None
    row = Row(
        f"{zbuf}, {percentile}: peer / zbuf",
        _in_words(counted, zbuf, percentile),
        f"{peer} {WAYS[peer].missing or _in_words(counted, peer, percentile)}",
        target="" if target is None else f"≥ {target:g}",
        conditions=conditions(counted),
        data={
            "peer": peer,
            "percentile": percentile,
            "target": target,
            "rounds": list(map(dataclasses.asdict, rounds)),
        },
    )
    if WAYS[peer].missing:
        return row
    ratios = [one.outcomes[peer][percentile] / one.outcomes[zbuf][percentile] for one in counted]
    return row.compared(ratios, target)


def _in_words(rounds: Rounds, way: str, percentile: str) -> str:
    return f"{statistics.median(one.outcomes[way][percentile] for one in rounds):,.1f} µs"
