"""Fixtures of the tests of the pages: a capture, a producer that replays it, and commands to run."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pages import BIN, Run
from support.project import ROOT

from zbuf.producer import FileSource, Producer


@pytest.fixture
def run(run_dir: Path) -> Run:
    """run("zbuf", "ls"): run a command to its end, which must be a success."""
    environment = {**os.environ, "ZBUF_RUN_DIR": str(run_dir), "PATH": f"{BIN}:{os.environ['PATH']}"}

    def run_to_the_end(*command: str | Path) -> "subprocess.CompletedProcess[str]":
        words = [str(word) for word in command]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return run_to_the_end


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The capture file of examples/make_capture.py."""
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    subprocess.run([sys.executable, ROOT / "examples" / "make_capture.py", path], check=True, timeout=60)
    return path


@pytest.fixture
def producer(run_dir: Path, capture: Path) -> Iterator[Producer]:
    """A producer `lab` that replays the capture, without loss, as soon as a reader is there."""
    source = FileSource([str(capture)])
    with Producer("lab", linktype=source.linktype, lossless=True, run_dir=run_dir) as producer:

        def replay() -> None:
            if producer.wait_readers(1):
                producer.publish(source)
                producer.close()

        thread = threading.Thread(target=replay)
        thread.start()
        try:
            yield producer
        finally:
            producer.stop()
            thread.join()
