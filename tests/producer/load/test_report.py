"""What a replay reports: sizes, latency, and the page with plots."""

import json
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.captures import Record, pcap
from support.commands import Commands, end, error_of, run, wait_line
from support.processes import numbered

from zbuf.consumer import connect
from zbuf.producer.sources.files.file_source import FileSource

SIZES = [8, 64, 65, 127, 128, 255, 256, 511, 512, 1023, 1024, 1518, 1519, 9000]
CLASSES = {"0-64": 2, "65-127": 2, "128-255": 2, "256-511": 2, "512-1023": 2, "1024-1518": 2, "1519+": 2}


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> None:
    """Every test here has a run directory of its own."""


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """A capture of every size class, under a name that is markup."""
    path = tmp_path / "<b>lab&co.pcap"
    path.write_bytes(pcap([Record(numbered(number, size), number, size) for number, size in enumerate(SIZES)]))
    return path


class Page(HTMLParser):
    """A page: its text, its elements, and what it refers to. Elements that are not closed are an error."""

    EMPTY = ("meta", "path", "use", "rect", "image", "br")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.found: list[str] = []
        self.references: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.references += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_tells_everything(
    commands: Commands, producer_name: str, capture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    options = [
        "--pps",
        "2000",
        "--duration",
        "0.5",
        "--wait-readers",
        "1",
        "--latency",
        "--report",
        str(path),
        "--json",
    ]
    replaying = commands.start("zbufd", "replay", capture, "--name", producer_name, *options)
    wait_line(replaying.stderr, "ready in")
    with connect(producer_name, filter="len > 100") as reader:
        packets = sum(1 for _ in reader)
    told = json.loads(end(replaying).stdout)
    page = Page(path.read_text())
    assert all(reference.startswith("#") for reference in page.references)
    assert {"script", "link", "img", "b"}.isdisjoint(page.found)
    assert page.found.count("svg") == 3  # rate over time, lag, sizes
    text = "\n".join(page.words)
    for expected in (str(capture), producer_name, "2,000 packets/s", "len > 100", f"{told['packets']:,}", "1024-1518"):
        assert expected in text
    assert told["machine"]["processor"] in text
    assert told["command"] == shlex.join(["zbufd", "replay", str(capture), "--name", producer_name, *options])
    assert told["command"] in text
    assert f"zbuf {told['version']}" in text
    assert packets <= told["packets"]
    assert set(told["latency_us"]) == {"p50", "p90", "p99", "p99.9", "max", "mean"}
    assert 0 < told["latency_us"]["p50"] <= told["latency_us"]["max"]


@pytest.mark.parametrize("limit", ["1G", "100"])
def test_sizes_are_those_of_the_file(producer_name: str, capture: Path, limit: str) -> None:
    done = run("zbufd", "replay", capture, "--name", producer_name, "--preload-limit", limit, "--loop", "3", "--json")
    told = json.loads(done.stdout)
    assert told["sizes"] == CLASSES | {"wire_bytes": sum(SIZES)}
    assert told["packets"] == 3 * len(SIZES)
    assert (told["pacing"], told["latency_us"], told["files"]) == (None, {}, [str(capture)])


def test_no_packets_have_no_sizes(tmp_path: Path) -> None:
    path = tmp_path / "empty.pcap"
    path.write_bytes(pcap([]))
    source = FileSource([str(path)])
    assert (source.sizes.packets, source.sizes.wire_bytes) == (0, 0)
    assert list(source.sizes.named()) == list(CLASSES)


def test_a_page_without_readers_or_packets(producer_name: str, tmp_path: Path) -> None:
    path, capture = tmp_path / "report.html", tmp_path / "empty.pcap"
    capture.write_bytes(pcap([]))
    done = run("zbufd", "replay", capture, "--name", producer_name, "--loop", "0", "--report", path)
    assert done.returncode == 1
    assert done.stderr.endswith(f"zbufd: no packets in {capture}\n")
    assert done.stdout.startswith("0 packets offered")
    assert "no reader was connected" in "\n".join(Page(path.read_text()).words)


def test_a_page_that_can_not_be_written_is_told_before_the_replay(producer_name: str, capture: Path) -> None:
    line = error_of(run("zbufd", "replay", capture, "--name", producer_name, "--report", "/nowhere/x.html"))
    assert line == "zbufd: --report /nowhere/x.html: No such file or directory"


def test_latency_is_not_measured_from_old_time_stamps(capture: Path) -> None:
    done = run("zbufd", "replay", capture, "--latency", "--stamp", "file")
    assert "--latency needs packets with the time of the replay" in error_of(done, 2)
