"""While producer and reader are both busy neither makes a system call: the kernel would kill it if it did."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from support.project import TESTS
from support.rig import Rig
from support.sealed_process import BUFFERS, EXIT_NUMBERS, WARM_UP_BUFFERS

MakeRig = Callable[..., Rig]
LONG = 60  # seconds; only broken code takes as long

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in EXIT_NUMBERS, reason="the number of exit(2) is not known here"),
]


@contextlib.contextmanager
def sealed(*arguments: object, fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[str]]:
    """One role of sealed_process.py, as a process that has said that it is ready."""
    command = [sys.executable, str(TESTS / "support" / "sealed_process.py"), *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # NumPy's own threads would not be sealed
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, pass_fds=fds, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> Callable[[], bool]:
    """Whether the process has ended; an error, where it takes too long."""
    limit = time.monotonic() + LONG

    def ended_by_now() -> bool:
        assert time.monotonic() < limit, "the process goes on for ever"
        return process.poll() is not None

    return ended_by_now


def test_a_sealed_process_that_makes_no_system_call_lives_and_leaves() -> None:
    with sealed("do", "nothing") as process:
        assert process.wait(LONG) == 0


@pytest.mark.parametrize("call", ["getppid", "sched_yield", "write", "read", "exit_group"])
def test_a_single_system_call_kills_a_sealed_process(call: str) -> None:
    with sealed("do", call) as process:
        assert process.wait(LONG) == -signal.SIGSYS


@pytest.mark.parametrize("how", ["packets", "buffers"])
def test_a_busy_reader_makes_no_system_call(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    seat = rig.sit()
    segment_fd = rig.segment.reader_fd()
    number = 0
    fds = (segment_fd, seat.ack_fd, seat.doorbell)
    try:
        with sealed("read", how, *fds, fds=fds) as process:
            is_over = ended(process)
            while not is_over():
                for _ in range(200):
                    number += 1
                    rig.descriptor.append_bytes(number.to_bytes(4, "little") * 20, time_ns=number)
            assert process.returncode == 0
    finally:
        os.close(segment_fd)
    assert rig.descriptor.ledger()["delivered"] > 0
    assert rig.descriptor.slots()["next_sequence"] >= WARM_UP_BUFFERS + BUFFERS
    assert rig.descriptor.bells == 0


@pytest.mark.parametrize("how", ["append", "pump"])
def test_a_busy_producer_makes_no_system_call(make_rig: MakeRig, how: str) -> None:
    rig = make_rig()
    reader = rig.reader(spin_ns=-1)
    seat, layout = rig.seats[1], rig.segment.layout
    arguments = (rig.segment.name, layout.buffer_bytes, *layout.buffer_offsets, seat.ack_fd, seat.bell)
    with sealed("produce", how, *arguments, fds=(seat.ack_fd, seat.bell)) as process:
        is_over = ended(process)
        while not is_over():
            while (buffer := reader.next_buffer(timeout=0.01)) is not None:
                assert buffer.totals()[0] == len(buffer)
        assert process.returncode == 0
    assert reader.sequence >= WARM_UP_BUFFERS + BUFFERS - 2
