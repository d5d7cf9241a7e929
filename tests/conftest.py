"""Fixtures that several test files use. They make names and processes, and remove what tests leave behind."""

import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # so that "support" is a package of the tests' own

from support.captures import pcap
from support.checkout import copy_project
from support.commands import Commands
from support.network import Network, network
from support.processes import Lab, Nursery, Remote
from support.replays import COUNT, records
from support.rig import Rig

from zbuf.consumer import Reader, connect

if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    # nohup(1) has SIGHUP ignored, and processes inherit that. They don't inherit a handler: with one that does nothing,
    # processes that tests start have the default, and the tests still outlive their terminal.
    signal.signal(signal.SIGHUP, lambda *_: None)

_READY_WITHIN_SECONDS = 30  # a limit for broken code only: working code is ready at once
_numbers = itertools.count()


@pytest.fixture
def producer_name() -> Iterator[str]:
    """A producer name of this test's own, with dots in it; every segment whose name begins with it is removed."""
    name = f"t{os.getpid()}.{next(_numbers)}x"
    yield name
    for segment in Path("/dev/shm").glob(f"zbuf.{name}*"):
        segment.unlink(missing_ok=True)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(program, *arguments): run a Python program in another process, and return when it prints "ready".

    Its standard input ends with the test, so that a program that waits there ends, too; it is killed anyhow.
    """
    with contextlib.ExitStack() as cleaning:

        def start_and_wait(program: str, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
            pipe = subprocess.PIPE
            process = cleaning.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            cleaning.callback(process.kill)
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], _READY_WITHIN_SECONDS)[0], "the process says nothing"
            assert process.stdout.readline() == "ready\n", "the process failed: see its standard error"
            return process

        yield start_and_wait


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    """make_rig(**options): a descriptor on a segment of its own, with no readers yet; see Rig."""
    with contextlib.ExitStack() as cleaning:
        yield lambda **options: cleaning.enter_context(Rig(**options))


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory of this test's own, named by ZBUF_RUN_DIR; its path is short, because a socket's must be."""
    directory = Path(tempfile.mkdtemp(prefix="zb"))
    monkeypatch.setenv("ZBUF_RUN_DIR", str(directory))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """The process that forks the processes of `remote`."""
    with contextlib.closing(Nursery()) as nursery:
        yield nursery


@pytest.fixture
def remote(nursery: Nursery, run_dir: Path, producer_name: str) -> Iterator[Callable[[], Remote]]:
    """remote(): a Python process that does as it is told. It is killed at the end, before its remains are removed."""
    del run_dir, producer_name
    with contextlib.ExitStack() as cleaning:
        yield lambda: cleaning.enter_context(contextlib.closing(nursery.fork()))


@pytest.fixture
def lab(remote: Callable[[], Remote], producer_name: str) -> Lab:
    """A producer in a process of its own."""
    return Lab(remote(), producer_name)


@pytest.fixture
def commands(run_dir: Path, producer_name: str) -> Iterator[Commands]:
    """commands.start("zbufd", ...): runs one of the two commands, and kills it at the end of the test."""
    del run_dir, producer_name
    with contextlib.closing(Commands()) as commands:
        yield commands


@pytest.fixture
def numbered_pcap(tmp_path: Path) -> Path:
    """A capture file of numbered packets."""
    path = tmp_path / "lab.pcap"
    path.write_bytes(pcap(records(COUNT), nanoseconds=True))
    return path


def feed(lab: Lab) -> None:
    """Have the producer append packets until its process is killed."""
    lab.process.do(
        """
        def feeding():
            while True:
                producer.append(numbered(1, 60))
                producer.append(numbered(1, 200))
        thread = threading.Thread(target=feeding, daemon=True)
        thread.start()
        """
    )


@pytest.fixture
def busy_lab(lab: Lab) -> Iterator[Reader]:
    """A reader that reads nothing from a producer that appends for ever."""
    with connect(lab.name, filter="len > 100\r or len < 1", buffer_size=4096) as reading:
        feed(lab)
        yield reading


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MiB."""
    directory = tempfile.mkdtemp(prefix="zb")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("needs root, to mount a file system")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)
    finally:
        os.rmdir(directory)


@pytest.fixture
def wire() -> Iterator[Network]:
    """A network namespace with a veth pair."""
    with network() as found:
        yield found


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project as git has it, with nothing built in it."""
    return copy_project(tmp_path_factory.mktemp("clone"))
