"""Fixtures for programs that read captures: pytest loads them by itself where zbuf is installed.

::

    def test_it_counts_dns(zbuf_replay):
        with connect(zbuf_replay("dns.pcap"), filter="udp port 53") as reader:
            assert sum(1 for _ in reader) == 12

    def test_it_reads_what_comes(zbuf_producer):
        producer = zbuf_producer("lab")
        with connect("lab") as reader:
            producer.append(b"...")
            producer.rotate()
            assert len(reader.next_buffer(timeout=1)) == 1

Each test has a run directory of its own, in which no other program finds its producers, nor it theirs. What a test has
started ends with it.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zbuf.producer import Producer


@pytest.fixture
def zbuf_run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory of this test's own, which ZBUF_RUN_DIR names: commands that the test starts use it, too."""
    with tempfile.TemporaryDirectory(prefix="zbuf-") as directory:  # short, because a socket's path must be
        monkeypatch.setenv("ZBUF_RUN_DIR", directory)
        yield Path(directory)


@pytest.fixture
def zbuf_producer(zbuf_run_dir: Path) -> Iterator["Callable[..., Producer]"]:
    """Call it for a Producer in the test's run directory, closed at the end of the test: ``zbuf_producer("lab")``.

    The options are those of zbuf.Producer. It does not wait at its end for readers that the test has left open.
    """
    from zbuf.producer import Producer

    with contextlib.ExitStack() as closing:

        def start(name: str = "lab", **options: Any) -> Producer:
            producer = Producer(name, run_dir=zbuf_run_dir, **{"linger_s": 0, **options})
            closing.enter_context(producer)
            closing.callback(producer.stop)
            return producer

        yield start


@pytest.fixture
def zbuf_replay(zbuf_run_dir: Path) -> Iterator[Callable[..., str]]:
    """Call it to replay capture files; it returns the name to connect to: ``zbuf_replay("dns.pcap")``.

    The options are those of zbuf.replay(). It begins with the first reader, waits for the readers, and ends with the
    test at the latest.
    """
    from zbuf.producer import replay

    with contextlib.ExitStack() as closing:

        def start(files: Any, **options: Any) -> str:
            return closing.enter_context(replay(files, run_dir=zbuf_run_dir, **options))

        yield start
