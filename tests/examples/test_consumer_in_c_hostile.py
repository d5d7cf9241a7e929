"""examples/consumer.c, built with the sanitizers, and producers that are broken or hostile."""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.examples import (
    HEADER_BYTES,
    PAGE,
    Process,
    Start,
    outcome,
)
from support.fake_producer import FakeProducer
from support.processes import LIMIT_S


@pytest.fixture
def fake(producer_name: str, run_dir: Path) -> Iterator[FakeProducer]:
    """A producer that does what a test wants."""
    with contextlib.closing(FakeProducer(producer_name, run_dir)) as producer:
        yield producer


def serve(fake: FakeProducer, raw: bytes | None = None) -> None:
    """Let the one client in, and answer it."""
    fake.listening.settimeout(LIMIT_S)
    fake.serve(raw)


def refused(process: Process) -> str:
    """What it says when it gives up: one line."""
    output, errors, status = outcome(process)
    assert (output, errors.count("\n"), status) == ("", 1, 1), errors
    assert errors.startswith("consumer: ")
    return errors.removeprefix("consumer: ")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the producer hung up"),
        (b"{", "is this a zbuf producer"),
        (b'{"type"', "is this a zbuf producer"),
        (b'{"type":', "is this a zbuf producer"),
        (b'"type":"connected"', "is this a zbuf producer"),
        (b'{"type":"done"}', "is this a zbuf producer"),
        (b'{"type":"connected"}', "is this a zbuf producer"),
        (b'{"type":"connected","sequence":-1}', "is this a zbuf producer"),
        (b'{"type":"connected","filter":"\\"sequence\\":7"}', "is this a zbuf producer"),
        (b'{"filter":"sequence","type":"connected"}', "is this a zbuf producer"),
        (b"\xff\xfe\0\0", "is this a zbuf producer"),
        (b"[" * 60_000, "is this a zbuf producer"),
        (b'{"type":"connected","sequence":0,"filter":"' + b"x" * 70_000 + b'"}', "too long"),
        (b'{"type":"refusal","reason":"not \\"you\\"\x1b[2J"}', 'refused: not \\"you\\"\n'),
        (b'{"reason" : "not you", "type" : "refusal"}', "refused: not you\n"),
        (b'{"type":"refusal","reason":"' + b"x" * 60_000, "refused: xxx"),
        (b'{"type":"refusal","reason":"x\\', "refused: x"),
        (b'{"type":"refusal","reason":"', "refused: \n"),
        (b'{"type":"refusal","reason":', "refused: \n"),
        (b'{"type":"refusal"}', "refused: \n"),
    ],
    ids=range(20),
)
def test_consumer_in_c_refuses_an_answer_that_makes_no_sense(
    fake: FakeProducer, sanitized: Path, example: Start, raw: bytes, message: str
) -> None:
    process = example(sanitized, fake.answer["producer"])
    serve(fake, raw)
    assert message in refused(process)


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_consumer_in_c_refuses_an_answer_with_too_few_descriptors(
    fake: FakeProducer, sanitized: Path, example: Start, keep: int
) -> None:
    process = example(sanitized, fake.answer["producer"])
    with contextlib.ExitStack() as unsent:
        for fd in fake.fds[keep:]:
            if fd not in (fake.ack_fd, fake.bell):
                unsent.callback(os.close, fd)
        fake.fds = fake.fds[:keep]
        serve(fake)
    assert f"with {keep} file descriptors" in refused(process)


def test_consumer_in_c_refuses_an_answer_with_too_many_descriptors(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    fake.fds += [os.dup(fake.ack_fd) for _ in range(50)]
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert "too many file descriptors" in refused(process)


@pytest.mark.parametrize(
    ("which", "message"), [(0, "no memory to map"), (1, "no memory to map"), (2, "the doorbell is not a socket")]
)
@pytest.mark.parametrize("kind", ["short file", "directory", "pipe"])
def test_consumer_in_c_refuses_a_descriptor_of_the_wrong_kind(
    fake: FakeProducer, sanitized: Path, example: Start, tmp_path: Path, which: int, message: str, kind: str
) -> None:
    (tmp_path / "short").write_bytes(b"short")
    reading, writing = os.pipe()
    os.write(writing, b"ring")
    wrong = {"short file": os.open(tmp_path / "short", os.O_RDONLY), "directory": os.open(tmp_path, os.O_RDONLY)}
    wrong["pipe"] = reading
    kept, fake.fds[which] = fake.fds[which], wrong[kind]
    with contextlib.ExitStack() as opened:
        for fd in (*wrong.values(), writing, kept):
            if fd not in (wrong[kind], fake.ack_fd, fake.bell):
                opened.callback(os.close, fd)
        process = example(sanitized, fake.answer["producer"])
        serve(fake)
        assert message in refused(process)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"ELEPHANT", "foreign segment"),
        (8, struct.pack("<I", 99), "segment of ABI 99, this is ABI 2"),
        (12, struct.pack("<I", 0), "segment in state 0"),
        (12, struct.pack("<I", 5), "segment in state 5"),
        (24, struct.pack("<Q", 1 << 40), "corrupt segment"),
        (48, struct.pack("<Q", 1 << 63), "corrupt segment: a buffer at 9223372036854775808"),
        (48, struct.pack("<Q", 4097), "corrupt segment: a buffer at 4097"),
        (56, struct.pack("<Q", (1 << 64) - PAGE), "corrupt segment: a buffer at 18446744073709547520"),
        (56, struct.pack("<Q", 4 * PAGE), "corrupt segment: a buffer at 16384"),
        (64, struct.pack("<Q", 0), "with buffers of 0"),
        (64, struct.pack("<Q", 100), "with buffers of 100"),
        (64, struct.pack("<Q", 3 * PAGE), "corrupt segment: a buffer at 8192"),
        (64, struct.pack("<Q", (1 << 64) - PAGE), "with buffers of 18446744073709547520"),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else None,
)
def test_consumer_in_c_refuses_a_segment_whose_first_page_is_impossible(
    fake: FakeProducer, sanitized: Path, example: Start, at: int, value: bytes, message: str
) -> None:
    fake.segment.map[at : at + len(value)] = value
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert message in refused(process)


def block(caplen: int = 60, total: int = 92, kind: int = 6, tail: int = 92) -> bytes:
    """An Enhanced Packet Block, or a broken one."""
    return struct.pack("<7I", kind, total, 0, 0, 0, caplen, caplen) + bytes(60) + struct.pack("<I", tail)


def assign(fake: FakeProducer, blocks: bytes, length: int | None = None, sequence: int = 0) -> None:
    """Assign buffer A, before anybody is there to be woken."""
    at = 2 * PAGE
    assert struct.unpack_from("<2Q", fake.segment.map, 48) == (at, at + PAGE)
    fake.segment.map[at + HEADER_BYTES : at + HEADER_BYTES + len(blocks)] = blocks
    struct.pack_into("<4I16xQ", fake.segment.map, at, 1, len(blocks) if length is None else length, 0, 1, sequence)


@pytest.mark.parametrize(
    ("blocks", "length", "message"),
    [
        (b"", PAGE - HEADER_BYTES + 4, "corrupt buffer 0: 3972 bytes"),
        (b"", 0xFFFFFFFC, "corrupt buffer 0: 4294967292 bytes"),
        (b"", 0xFFFFFFFF, "corrupt buffer 0: 4294967295 bytes"),
        (block(), 91, "corrupt buffer 0: 91 bytes"),
        (block(), 88, "corrupt buffer 0: no packet at byte 0"),
        (block() + bytes(92), None, "corrupt buffer 0: no packet at byte 92"),
        (block(total=0), None, "no packet at byte 0"),
        (block(total=0xFFFFFFFC), None, "no packet at byte 0"),
        (block(caplen=0xFFFFFFFF), None, "no packet at byte 0"),
        (block(tail=96), None, "no packet at byte 0"),
        (b"\xff" * (PAGE - HEADER_BYTES), None, "no packet at byte 0"),
    ],
    ids=range(11),
)
def test_consumer_in_c_refuses_a_buffer_without_whole_packets(
    fake: FakeProducer, sanitized: Path, example: Start, blocks: bytes, length: int | None, message: str
) -> None:
    assign(fake, blocks, length)
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert message in refused(process)


@pytest.mark.slow
def test_consumer_in_c_is_evicted_when_the_producer_hangs_up_and_lives(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    assign(fake, block())
    at = 3 * PAGE  # the store, which it must not touch
    struct.pack_into("<2I", fake.segment.map, at + 64, 92, 1)
    fake.segment.map[at + HEADER_BYTES : at + HEADER_BYTES + 92] = block()
    process = example(sanitized, fake.answer["producer"])
    os.close(fake.doorbell)
    fake.doorbell = -1
    serve(fake)
    assert outcome(process) == ("1 packets, 60 bytes, 0 dropped; evicted\n", "", 0)


def test_consumer_in_c_is_evicted_when_a_buffer_comes_whose_turn_it_is_not(
    fake: FakeProducer, sanitized: Path, example: Start
) -> None:
    assign(fake, block(), sequence=2)
    process = example(sanitized, fake.answer["producer"])
    serve(fake)
    assert outcome(process) == ("0 packets, 0 bytes, 0 dropped; evicted\n", "", 0)


def test_consumer_in_c_says_what_it_can_not_connect_to(run_dir: Path, consumer: Path, example: Start) -> None:
    assert refused(example(consumer, "none")) == f"{run_dir}/none/control.sock: No such file or directory\n"
    assert "too long for the path of a socket" in refused(example(consumer, "none", "/x" * 60))
    assert refused(example(consumer)) == "usage: consumer NAME [RUN_DIR]\n"
