"""Fixtures of the tests of the examples."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.captures import Record, read_capture
from support.commands import Commands
from support.examples import EXAMPLES, Process, Start

from zbuf.producer import Producer

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Packets of ARP, DNS, HTTP, ICMP and IPv6, with VLAN tags and fragments."""
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    subprocess.run([sys.executable, EXAMPLES / "make_capture.py", path], check=True, timeout=60)
    return read_capture(path.read_bytes()).records


@pytest.fixture
def producer(producer_name: str, run_dir: Path) -> Iterator[Producer]:
    """A producer that loses nothing."""
    del run_dir
    with Producer(producer_name, lossless=True) as producer:
        yield producer


@pytest.fixture
def example(commands: Commands) -> Start:
    """example(program, *arguments): start an example; it is killed at the end of the test."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(program: str | Path, *arguments: str | int | Path) -> Process:
        interpreter = [sys.executable] if str(program).endswith(".py") else []
        command = [*interpreter, str(EXAMPLES / program), *map(str, arguments)]
        pipe = subprocess.PIPE
        return commands.adopt(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))

    return start


def build(folder: Path, *flags: str) -> Path:
    command = ["cc", *STRICT, *flags, "-o", str(folder / "consumer"), str(EXAMPLES / "consumer.c")]
    subprocess.run(command, check=True, timeout=120)
    return folder / "consumer"


@pytest.fixture(scope="session")
def consumer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """consumer.c, built as people build it."""
    return build(tmp_path_factory.mktemp("consumer"), "-O2")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """consumer.c, built with sanitizers, which end it with a report when it does something undefined."""
    return build(tmp_path_factory.mktemp("sanitized"), *SANITIZERS)
