"""How capture files are replayed: by pipes that nobody writes to, merged, streamed, in loops, with other addresses."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from captures import pcap, sample
from processes import LIMIT_S, Commands

from zbuf.producer.stopping import Stop, interruptibly

SOON_S = 5
"""A limit for broken code only: what ends soon ends within milliseconds."""


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """save(image, name): a file with these bytes; returns its path."""

    def save_as(image: bytes, name: str = "lab.pcap") -> str:
        path = tmp_path / name
        path.write_bytes(image)
        return str(path)

    return save_as


# ---- pipes that nobody writes to ------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent_pipe(image: bytes) -> Iterator[int]:
    """The reading end of a pipe with these bytes in it, whose writer says no more and does not go away either."""
    reading, writing = os.pipe()
    try:
        assert os.write(writing, image) == len(image), "more than a pipe holds"
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def wait_empty(reading: int) -> None:
    """Wait until all that is in a pipe was read."""
    limit = time.monotonic() + LIMIT_S
    while struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))[0]:
        assert time.monotonic() < limit, "nobody reads the pipe"


def wait_threads(process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until a process has so many threads."""
    limit = time.monotonic() + LIMIT_S
    while len(os.listdir(f"/proc/{process.pid}/task")) < count:
        assert time.monotonic() < limit, f"fewer than {count} threads"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("length", [0, 1, 2, 10, 24, 30, 120], ids=lambda length: f"{length}-bytes")
def test_replay_of_a_silent_pipe_ends_at_once(commands: Commands, number: signal.Signals, length: int) -> None:
    with silent_pipe(pcap(sample(1000, [60, 60]))[:length]) as reading:
        process = commands.start("zbufd", "replay", "-", stdin=reading)
        wait_threads(process, 3)
        wait_empty(reading)
        process.send_signal(number)
        _, said = process.communicate(timeout=SOON_S)
        assert process.returncode in (130, -number)
        assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_replay_of_a_fifo_that_nobody_opens_ends_at_once(
    commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = commands.start("zbufd", "replay", tmp_path / "fifo")
    wait_threads(process, 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=SOON_S)
    assert process.returncode in (130, -number)
    assert "Traceback" not in said


def test_interrupted_work_is_waited_for_and_its_stop_is_set() -> None:
    ended: list[bool] = []

    def work(stop: Stop) -> None:
        assert not stop.is_set
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not stop.is_set:
            assert not ended
        ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        interruptibly(work)
    assert ended == [True]


def test_errors_and_results_of_interruptible_work_come_through() -> None:
    assert interruptibly(lambda stop: not stop.is_set)
    with pytest.raises(ZeroDivisionError):
        interruptibly(lambda _: 1 // 0)
