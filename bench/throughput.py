"""The same packets to another Python process, as fast as they go, losing none.

Timed: packets of one size, held in the sender's memory and sent again and again, from the first one to when the
receiver has the last one, and has taken the length of each. zbuf's sender replays a file by Producer.publish(),
lossless. Its receiver takes them as NumPy batches (index_batches()), or by ``for packet in reader``. Then it has the
packets' place in shared memory. A program that reads their bytes, too, must fetch these; peers' receivers did so by
copying them.

Against: multiprocessing.Pipe and Queue, pyzmq's PUSH and PULL over ipc, Unix sockets of datagrams and of packets, and
iceoryx2's publish-subscribe, one packet a message, from a list in the sender. Beside them, zbuf's own Producer.append()
from the same list to ``bytes(packet)``, immediate: each packet is a Python object on both sides. See bench.messages.
Targets are for the fastest of the peers.

For information, the two peers that take lists send 64 packets in a message: pickled by Connection.send(), or as the
parts of a multipart message.
"""

import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import pipeline
from bench.captures import Capture, one_size, packets_of
from bench.measure import Round, Row, Session, conditions, rate_in_words
from bench.messages import STREAMS, ZBUF_APPEND, Receive, Send
from bench.pipeline import Times, packets_per_second
from bench.stage import BenchError, Stage
from zbuf.consumer.reading.reader import Reader

_BATCHES, _ITERATE = "zbuf batches", "zbuf iterate"
_TARGETS: Mapping[int, Mapping[str, float]] = {64: {_BATCHES: 50, _ITERATE: 8}, 1514: {_BATCHES: 15}}
_PACKETS = {64: {_BATCHES: 80_000_000, _ITERATE: 16_000_000}, 1514: {_BATCHES: 8_000_000, _ITERATE: 8_000_000}}
_PEER_PACKETS = {64: 500_000, 1514: 250_000}

Rounds = Sequence[Round[float]]


# ---- zbuf's readers -------------------------------------------------------------------------------------------------


def take_batches(name: str, run_dir: str) -> Times:
    """Be a reader that takes the lengths of a buffer at a time."""
    return pipeline.read_counts(name, run_dir, _take_batches)


def _take_batches(reader: Reader) -> Times:
    packets = octets = 0
    for batch in reader.index_batches():
        packets += len(batch)
        octets += int(batch.index["caplen"].sum())
    return {"packets": packets, "octets": octets}


def take_packets(name: str, run_dir: str) -> Times:
    """Be a reader that takes packet by packet."""
    return pipeline.read_counts(name, run_dir, _take_packets)


def _take_packets(reader: Reader) -> Times:
    packets = octets = 0
    for packet in reader:
        packets += 1
        octets += packet.caplen
    return {"packets": packets, "octets": octets}


# ---- peers ----------------------------------------------------------------------------------------------------------


def transfer(way: str, file: str, size: int, loops: int, name: str, run_dir: str) -> Times:
    """Be the receiver, and start the sender."""
    packets, batch = packets_of(file), STREAMS[way].batch
    messages = packets if batch == 1 else [packets[at : at + batch] for at in range(0, len(packets), batch)]
    receive_all = _receive_packets if batch == 1 else _receive_lists
    return STREAMS[way].talk(
        name,
        run_dir,
        size,
        lambda send: _send_all(send, messages, loops),
        lambda receive: receive_all(receive, len(messages) * loops),
    )


def _send_all(send: Send, messages: Sequence[object], loops: int) -> None:
    for message in itertools.chain.from_iterable(itertools.repeat(messages, loops)):
        send(message)


def _receive_packets(receive: Receive, messages: int) -> Times:
    octets = 0
    began = time.monotonic()
    for _ in range(messages):
        octets += len(receive())
    return {"packets": messages, "octets": octets, "began": began, "ended": time.monotonic()}


def _receive_lists(receive: Receive, messages: int) -> Times:
    packets = octets = 0
    began = time.monotonic()
    for _ in range(messages):
        for packet in receive():
            packets += 1
            octets += len(packet)
    return {"packets": packets, "octets": octets, "began": began, "ended": time.monotonic()}


# ---- the measure ----------------------------------------------------------------------------------------------------


def measure(session: Session) -> list[Row]:
    """For each size, a row for each of zbuf's ways against the fastest peer, and one for each peer."""
    with tempfile.TemporaryDirectory(prefix="zbuf-bench-") as directory:
        return [row for size in _TARGETS for row in _measure_size(session, one_size(Path(directory), size), size)]


def _measure_size(session: Session, capture: Capture, size: int) -> list[Row]:
    runs = {
        name: _zbuf(capture, capture.loops(session.scaled(_PACKETS[size][name])), reader, size)
        for name, reader in ((_BATCHES, take_batches), (_ITERATE, take_packets))
    }
    peer_loops = capture.loops(session.scaled(_PEER_PACKETS[size]))
    runs |= {name: _stream(name, capture, peer_loops, size) for name, way in STREAMS.items() if not way.missing}
    counted, rounds = session.take_turns(f"messages, {size} bytes", runs, lambda _: 2)
    fastest = max(_peers(runs), key=lambda name: _median(counted, name))
    ours = [_row(zbuf, fastest, size, counted, rounds, "fastest: ") for zbuf in (_BATCHES, _ITERATE, ZBUF_APPEND)]
    others = [_row(_ITERATE, name, size, counted, rounds) for name in STREAMS if name not in (ZBUF_APPEND, fastest)]
    return ours + others


def _peers(runs: Mapping[str, object]) -> list[str]:
    """The peers that compete for being the fastest."""
    return [name for name, way in STREAMS.items() if name in runs and name != ZBUF_APPEND and way.batch == 1]


def _zbuf(capture: Capture, loops: int, reader: Callable[[str, str], Times], size: int) -> Callable[[], float]:
    def run() -> float:
        produced, taken = pipeline.run(capture, loops, reader)
        return _rate(size, taken | produced)

    return run


def _stream(way: str, capture: Capture, loops: int, size: int) -> Callable[[], float]:
    def run() -> float:
        with Stage() as stage:
            transferring = stage.call(transfer, way=way, file=capture.path, size=size, loops=loops, **stage.place)
            return _rate(size, transferring.result())

    return run


def _rate(size: int, times: Times) -> float:
    """Packets per second; raises BenchError unless each of them came whole."""
    if times["octets"] != times["packets"] * size:
        raise BenchError(f"{times['packets']:.0f} packets of {size} bytes came with {times['octets']:.0f} bytes")
    return packets_per_second(times)


# ---- rows -----------------------------------------------------------------------------------------------------------


def _row(zbuf: str, peer: str, size: int, counted: Rounds, rounds: Rounds, prefix: str = "") -> Row:
    missing = STREAMS[peer].missing
    target = _TARGETS[size].get(zbuf) if prefix else None
    row = Row(
        f"{zbuf}, {size} bytes",
        _in_words(counted, zbuf, size),
        f"{prefix}{peer} {missing or _in_words(counted, peer, size)}",
        target="" if target is None else f"≥ {target:g}",
        conditions=conditions(counted),
        data={"peer": peer, "size": size, "target": target, "rounds": list(map(dataclasses.asdict, rounds))},
    )
    if missing:
        return row
    ratios = [one.outcomes[zbuf] / one.outcomes[peer] for one in counted]
    return row.compared(ratios, target)


def _median(rounds: Rounds, name: str) -> float:
    return statistics.median(one.outcomes[name] for one in rounds)


def _in_words(rounds: Rounds, name: str, size: int) -> str:
    rate = _median(rounds, name)
    return f"{rate_in_words(rate)}, {rate * size / 1e9:.2f} GB/s"
