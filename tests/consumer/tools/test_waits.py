"""Commands that wait: they say for whom, on a terminal and after 2 s, and Ctrl-C ends them."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import Commands, Process, command, end
from support.processes import LIMIT_S, Lab, Remote, wait_stopped

pytestmark = pytest.mark.usefixtures("run_dir")


class OnTerminal:
    """A command whose standard error is a terminal."""

    def __init__(self, commands: Commands, *words: str) -> None:
        self.ours, theirs = os.openpty()
        self.said = ""
        null, environment = subprocess.DEVNULL, os.environ | {"TERM": "xterm"}  # a dumb one shows no progress
        self.process: Process = commands.adopt(
            subprocess.Popen(command(*words), stdin=null, stdout=null, stderr=theirs, text=True, env=environment)
        )
        os.close(theirs)

    def wait_text(self, part: str) -> None:
        """Wait until it has said something."""
        while part not in self.said:
            assert select.select([self.ours], [], [], LIMIT_S)[0], f"{part!r} is not in {self.said!r}"
            self.said += os.read(self.ours, 65536).decode(errors="replace")

    def end_by_interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        began_s = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(LIMIT_S)
        assert time.monotonic() - began_s < LIMIT_S / 4
        return status


@pytest.fixture
def on_terminal(commands: Commands) -> Iterator[Callable[..., OnTerminal]]:
    """Start a command on a terminal."""
    made: list[OnTerminal] = []

    def start(*words: str) -> OnTerminal:
        made.append(OnTerminal(commands, *words))
        return made[-1]

    yield start
    for one in made:
        os.close(one.ours)


def test_dump_says_that_it_waits_for_its_producer(on_terminal: Callable[..., OnTerminal], producer_name: str) -> None:
    dump = on_terminal("zbuf", "dump", producer_name, "--wait-producer", "600", "-w", "/dev/null")
    dump.wait_text(f"zbuf: waiting for producer '{producer_name}' to start, ")
    assert dump.end_by_interrupt() == 130


def test_wait_is_not_told_off_a_terminal(commands: Commands, producer_name: str) -> None:
    done = end(commands.start("zbuf", "dump", producer_name, "--wait-producer", "2.3"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"zbuf: no producer '{producer_name}' runs in ")


@pytest.mark.parametrize("words", [["stats", "{}"], ["ls"], ["measure", "{}"]], ids=lambda words: words[0])
def test_command_says_which_producer_does_not_answer(
    on_terminal: Callable[..., OnTerminal], lab: Lab, words: list[str]
) -> None:
    lab.process.signal(signal.SIGSTOP)
    wait_stopped(lab.process.pid)
    asking = on_terminal("zbuf", *(word.format(lab.name) for word in words))
    asking.wait_text(f"zbuf: waiting for producer '{lab.name}' to answer, 30 s at most")
    assert asking.end_by_interrupt() == 130


def test_replay_says_which_reader_it_lingers_for_and_an_interrupt_ends_that(
    on_terminal: Callable[..., OnTerminal], remote: Callable[[], Remote], producer_name: str, numbered_pcap: Path
) -> None:
    words = ["--name", producer_name, "--wait-readers", "1", "--linger", "600"]
    replay = on_terminal("zbufd", "replay", str(numbered_pcap), *words)
    replay.wait_text("ready in")
    reader = remote()
    reader.do("reader = connect(name); buffer = reader.next_buffer()", name=producer_name)
    replay.wait_text(f" (pid {reader.pid}): Ctrl-C ends it")
    assert replay.end_by_interrupt() == 0


def test_lossless_replay_says_which_reader_it_waits_for(
    on_terminal: Callable[..., OnTerminal], remote: Callable[[], Remote], producer_name: str, numbered_pcap: Path
) -> None:
    words = ["--name", producer_name, "--wait-readers", "1", "--lossless", "--loop", "0", "--linger", "0"]
    replay = on_terminal("zbufd", "replay", str(numbered_pcap), *words)
    replay.wait_text("ready in")
    reader = remote()
    reader.do("reader = connect(name, buffer_size=4096)", name=producer_name)
    replay.wait_text(f"(pid {reader.pid})")
    assert replay.end_by_interrupt() == 0
