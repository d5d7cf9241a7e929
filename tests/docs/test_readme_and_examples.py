"""What the README and the guide show runs, and so do the examples."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from support.project import ROOT

from zbuf.consumer.cli import app as zbuf
from zbuf.producer import FileSource, Producer
from zbuf.producer.cli import app as zbufd
from zbuf.shared.control.statistics import (
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)

EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "docs" / "guide.md", ROOT / "docs" / "wireshark.md"]
STATISTICS = (Statistics, DescriptorStatistics, ReaderStatistics, InterfaceStatistics)
COMMANDS = {"zbuf": typer.main.get_command(zbuf), "zbufd": typer.main.get_command(zbufd)}


def run(*command: str | Path, run_dir: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ZBUF_RUN_DIR": run_dir, "PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=timeout_s, check=True
    )


@pytest.fixture
def run_dir() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="zbuf-") as folder:
        yield folder


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "lab.pcap"
    run(sys.executable, EXAMPLES / "make_capture.py", path, run_dir="/nowhere")
    return path


@pytest.fixture
def lab(run_dir: str, capture: Path) -> Iterator[Producer]:
    """A producer `lab` that replays the capture, losing nothing, once a reader is there."""
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


def blocks_of(page: str, language: str, containing: str = "") -> list[str]:
    blocks = [block for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL) if containing in block]
    assert blocks, f"the page has no {language} with {containing!r}"
    return blocks


GUIDE_PRINTS = {  # a part of the program, and what its output ends with
    "hex()": re.compile(r"\d+ \d+ \d+ [0-9a-f]+"),
    "StaleBuffer": re.compile(r"buffer 0 was acknowledged: use its packets before, or copy them"),
    "index_batches": re.compile(r"[1-9]\d* sources"),
    "connect_async": re.compile(r"[1-9]\d*"),
    "ScapySocket": re.compile(r".*DNS.*"),
    "reconnect": re.compile(r"0 returns, 0 packets that nobody can account for"),
}


@pytest.mark.parametrize("program", blocks_of(GUIDE, "python"), ids=lambda one: one.splitlines()[-1].strip()[:30])
def test_the_guide_s_programs_run_as_they_stand(program: str, lab: Producer, run_dir: str) -> None:
    (expected,) = (pattern for part, pattern in GUIDE_PRINTS.items() if part in program)
    lines = run(sys.executable, "-c", program, run_dir=run_dir).stdout.splitlines()
    assert expected.fullmatch(lines[-1])
    assert lab.offered > 500


@pytest.mark.parametrize("page", PAGES, ids=lambda one: one.name)
def test_shell_lines_parse_and_the_commands_have_the_options_that_are_shown(page: Path) -> None:
    checked = 0
    for block in blocks_of(page.read_text(), "sh"):
        subprocess.run(["sh", "-n"], input=block, text=True, check=True, timeout=10)
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in COMMANDS:
                name, *arguments = words[1:]
                COMMANDS[words[0]].commands[name].make_context(name, arguments)  # type: ignore[attr-defined]
                checked += 1
    assert checked >= 2


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/protocol.md", "examples/README.md"])
def test_links_lead_to_files_that_are_there(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_guide_s_counters_are_those_of_the_statistics() -> None:
    counted = {name for kind in STATISTICS for name in kind.__struct_fields__}
    table = GUIDE[GUIDE.index("| tcpdump says") :].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert named - {"live"} >= set(Ledger.__struct_fields__)
    assert named <= counted


README_IMPORTS = """
from scapy.all import sniff
from zbuf.consumer import connect, connect_async
from zbuf.consumer.scapy import ScapySocket
"""


@pytest.mark.parametrize(
    ("part", "lines"),
    [("for packet in reader", 100), ("index_batches", 0), ("connect_async", 500), ("ScapySocket", 500)],
)
def test_the_readme_s_reading_programs_run(part: str, lines: int, lab: Producer, run_dir: str) -> None:
    block = blocks_of(README, "python", part)[0]
    if block.startswith("async"):
        block = f"import asyncio\nasync def main():\n{textwrap.indent(block, '    ')}\nasyncio.run(main())"
    output = run(sys.executable, "-c", README_IMPORTS + block, run_dir=run_dir).stdout
    assert lab.offered > 500
    assert output.count("\n") >= lines
    assert bool(output) == bool(lines)


def literal_parts(text: str, *varying: str) -> list[str]:
    """What is left of a message without the parts that differ from one time to the next."""
    return [part.strip(" :;,(") for part in re.split("|".join(varying), text) if len(part.strip(" :;,(")) > 7]


def test_the_messages_that_the_guide_explains_are_those_of_the_code() -> None:
    files = [file for folder in ("shared", "producer", "consumer") for file in (ROOT / folder).rglob("*.py*")]
    source = "\n".join(file.read_text() for file in files if file.suffix in (".py", ".pyx"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)  # a message of several lines
    table = GUIDE[GUIDE.index("| message |") :].split("\n\n")[0].splitlines()[2:]
    messages = [row.split(" | ")[0].strip("| ") for row in table]
    assert len(messages) > 15
    for message in messages:
        if "libpcap" not in message:
            parts = literal_parts(message, r"\.\.\.", r"'\w+'", r"\b\d+\b", r"\(\w+\)", ";")
            assert parts
            assert [part for part in parts if part not in source] == []


def test_the_readme_s_producing_program_runs(run_dir: str) -> None:
    (block,) = blocks_of(README, "python", "Producer(")
    run(sys.executable, "-c", f"data, when = b'x' * 60, 1\n{block}", run_dir=run_dir)


def test_the_readme_s_commands_run(capture: Path, run_dir: str, tmp_path: Path) -> None:
    replay, dump, ls, stats = (
        line.split("#")[0].split()
        for line in README.splitlines()
        if re.match(r"zbufd replay \S+ --name|zbuf (dump lab|ls|stats lab)", line)
    )
    environment = {**os.environ, "ZBUF_RUN_DIR": run_dir, "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [str(capture) if word.endswith(".pcap") else word for word in replay]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as producer:
        assert producer.stderr is not None
        assert "ready" in producer.stderr.readline()
        assert "lab" in run(*ls, run_dir=run_dir).stdout
        assert "no reader" in run(*stats, run_dir=run_dir).stdout
        written = tmp_path / "out.pcapng"
        ended = run(*[str(written) if word == "out.pcapng" else word for word in dump], run_dir=run_dir)
        report, _ = producer.communicate(timeout=30)
    assert "0 packets dropped" in ended.stderr
    assert producer.returncode == 0
    assert "packets offered" in report
    shown = run("tcpdump", "-r", written, run_dir=run_dir).stdout
    assert shown == run("tcpdump", "-r", capture, "tcp port 80", run_dir=run_dir).stdout


def test_the_iterating_example_counts_what_the_filter_passes(lab: Producer, run_dir: str) -> None:
    output = run(sys.executable, EXAMPLES / "iterate.py", "lab", "arp", run_dir=run_dir).stdout
    assert output == "2 packets, 84 bytes; the producer closed\n"
    assert lab.offered > 500


def test_the_sizes_example_counts_every_packet(lab: Producer, run_dir: str) -> None:
    output = run(sys.executable, EXAMPLES / "sizes.py", "lab", run_dir=run_dir).stdout
    assert sum(int(line.rsplit(":", 1)[1]) for line in output.splitlines()) == lab.offered


def test_the_rates_example_counts_every_packet(lab: Producer, run_dir: str) -> None:
    output = run(sys.executable, EXAMPLES / "rates.py", "lab", "0.1", run_dir=run_dir).stdout
    *lines, last = output.splitlines()
    assert sum(int(line.split()[0]) for line in lines) == lab.offered
    assert all(line.endswith(", 0 lost") for line in lines)
    assert last == "the producer closed"


def test_the_rates_example_ends_quietly_on_sigterm(run_dir: str) -> None:
    command = [sys.executable, str(EXAMPLES / "rates.py"), "idle", "0.1"]
    environment = {**os.environ, "ZBUF_RUN_DIR": run_dir}
    pipe = subprocess.PIPE
    with (
        Producer("idle", run_dir=run_dir),
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as rates,
    ):
        assert rates.stdout is not None
        assert rates.stdout.readline() == "0 packets, 0 bytes, 0 packets/s, 0 lost\n"
        rates.terminate()
        assert rates.communicate(timeout=30)[1] == ""
        assert rates.returncode == 0


def test_the_publishing_example_reaches_a_dump(run_dir: str, tmp_path: Path) -> None:
    environment = {**os.environ, "ZBUF_RUN_DIR": run_dir}
    command = [sys.executable, str(EXAMPLES / "publish.py"), "numbers", "5000"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as producer:
        written = tmp_path / "numbers.pcapng"
        run(BIN / "zbuf", "dump", "--wait-producer", "30", "-w", written, "numbers", run_dir=run_dir)
        assert producer.communicate(timeout=30)[0] == "5000 packets published\n"
    assert run("tcpdump", "-r", written, run_dir=run_dir).stdout.count("ethertype") == 5000


@pytest.mark.slow
def test_the_demo_finds_every_byte(run_dir: str) -> None:
    output = run(sys.executable, EXAMPLES / "demo.py", run_dir=run_dir, timeout_s=120).stdout
    assert "holds byte for byte what went in" in output
    assert output.count("adds up") == 3
    assert "0 dropped" in output
