"""zbuf top on a terminal."""

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.commands import Commands, command
from support.processes import LIMIT_S, Lab, wait_stopped

pytestmark = pytest.mark.usefixtures("run_dir")

ENTER, LEAVE, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


class Terminal:
    """A pseudo-terminal with zbuf top on it."""

    def __init__(self, commands: Commands, *options: str, rows: int = 30, columns: int = 160, **env: str) -> None:
        self.ours, self.theirs = os.openpty()
        self.shown = ""
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.theirs)
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        line = ["setsid", "--ctty", *command("zbuf", "top", *options)]  # so that Ctrl-C and a new size are signals
        environment = os.environ | {"TERM": "xterm"} | env
        self.process = commands.adopt(subprocess.Popen(line, text=True, env=environment, **pipes))

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_text(self, part: str) -> str:
        """Wait until it shows something; returns that and what came before it, since the last wait."""
        while part not in self.shown:
            assert select.select([self.ours], [], [], LIMIT_S)[0], f"{part!r} is not in {self.shown!r}"
            self.shown += os.read(self.ours, 65536).decode(errors="replace")
        end = self.shown.index(part) + len(part)
        taken, self.shown = self.shown[:end], self.shown[end:]
        return taken

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def assert_restored(self) -> None:
        assert termios.tcgetattr(self.theirs) == self.before

    def end(self) -> str:
        """Wait for its end, in good order; returns what it showed."""
        shown = self.wait_text(LEAVE)
        assert self.process.wait(LIMIT_S) == 0
        self.assert_restored()
        assert CURSOR in shown
        assert not select.select([self.ours], [], [], 0)[0], os.read(self.ours, 65536)
        return shown

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal(commands: Commands) -> Iterator[Callable[..., Terminal]]:
    """terminal(options): zbuf top on a terminal of its own."""
    with contextlib.ExitStack() as cleaning:

        def start(*options: str, **more: Any) -> Terminal:
            return cleaning.enter_context(contextlib.closing(Terminal(commands, *options, **more)))

        yield start


@pytest.mark.usefixtures("busy_lab")
def test_terminal_shows_everything_again_and_again_until_q(lab: Lab, terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "0.1")
    one.wait_text(ENTER)
    for _ in range(3):
        shown = one.wait_text("! slow")
        for part in (lab.name, "packets/s", "accepted/s", "drops/s", "process", r"len > 100\r", "q quits"):
            assert part in shown
        assert "\x1b[2J" not in shown  # it is drawn over what was there, which does not flicker
    assert termios.tcgetattr(one.theirs) != one.before
    assert "█" in one.wait_text("! slow")
    one.type(b"xyz")
    one.wait_text("! slow")
    one.type(b"q")
    one.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_and_restores_the_terminal(terminal: Callable[..., Terminal], number: int) -> None:
    one = terminal("-d", "3600")
    one.wait_text("no producer runs")
    one.process.send_signal(number)
    one.end()


def test_control_c_ends_it(terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "3600")
    one.wait_text("no producer runs")
    one.type(b"\x03")
    one.end()


def test_count_ends_it_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("-d", "0.1", "-n", "3").end()
    assert shown.count("no producer runs") == 3


@pytest.mark.usefixtures("busy_lab")
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (3, 20), (6, 40), (0, 0)])
def test_terminal_of_any_size_will_do(terminal: Callable[..., Terminal], rows: int, columns: int) -> None:
    one = terminal("-d", "0.1", rows=rows, columns=columns)
    for _ in range(3):
        one.wait_text("\x1b[H")
    one.type(b"q")
    assert "Traceback" not in one.end()


def test_terminal_that_changes_its_size_is_drawn_anew_at_once(lab: Lab, terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "3600")
    assert one.wait_text("by interface").count(lab.name) == 0
    one.resize(20, 40)
    assert "by interface" not in one.wait_text(lab.name) + one.wait_text("packets/s")
    one.resize(20, 160)
    one.wait_text("by interface")
    one.type(b"Q")
    one.end()


def test_suspended_it_gives_the_terminal_back_and_goes_on_afterwards(terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "3600")
    one.wait_text("no producer runs")
    one.type(b"\x1a")
    one.wait_text(LEAVE)
    wait_stopped(one.process.pid)
    one.assert_restored()
    one.process.send_signal(signal.SIGCONT)
    one.wait_text(ENTER)
    one.wait_text("no producer runs")
    one.type(b"q")
    one.end()


@pytest.mark.usefixtures("busy_lab")
def test_terminal_that_has_no_blocks_is_drawn_on_in_ascii(terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "0.1", PYTHONIOENCODING="ascii")
    one.wait_text("! slow")
    shown = one.wait_text("! slow")
    assert shown.isascii()
    assert "#####" in shown
    one.type(b"q")
    one.end()


def test_once_on_a_terminal_leaves_its_lines_there(terminal: Callable[..., Terminal], lab: Lab) -> None:
    one = terminal("--once", "-d", "0.1", columns=20)
    shown = one.wait_text(f"{lab.name}  {lab.process.pid}")
    assert one.process.wait(LIMIT_S) == 0
    assert ENTER not in shown
    one.assert_restored()


def test_terminal_that_can_do_nothing_gets_plain_tables(terminal: Callable[..., Terminal]) -> None:
    one = terminal("-d", "0.1", TERM="dumb")
    assert "\x1b" not in one.wait_text("no producer runs") + one.wait_text("no producer runs")
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(LIMIT_S) == 0


def test_keys_are_not_needed_to_show(commands: Commands) -> None:
    ours, theirs = os.openpty()
    try:
        process = commands.start("zbuf", "top", "-d", "0.1", stdout=theirs, env=os.environ | {"TERM": "xterm"})
        shown = b""
        while shown.count(b"no producer runs") < 2:
            assert select.select([ours], [], [], LIMIT_S)[0]
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0
    finally:
        os.close(ours)
        os.close(theirs)


def test_help_tells_what_it_is_for() -> None:
    done = subprocess.run(command("zbuf", "top", "--help"), capture_output=True, text=True, check=True)
    for option in ("--delay", "--count", "--once", "--json", "--run-dir", "q quits"):
        assert option in " ".join(done.stdout.split())
