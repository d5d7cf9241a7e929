"""What the README shows is true: its programs and commands run, its numbers are the measured ones."""

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.pages import BIN, Run, blocks_of, text_of
from support.project import ROOT

from zbuf.producer import Producer

README = "README.md"


@pytest.mark.parametrize(
    ("part", "lines"), [("for packet in connect", 100), ("for packet in reader", 500), ("index_batches", 0)]
)
def test_its_reading_programs_run(part: str, lines: int, producer: Producer, run: Run) -> None:
    program = blocks_of(README, "python", part)[0].replace('"eth0"', '"lab"')
    output = run(sys.executable, "-c", f"from zbuf.consumer import connect\n{program}").stdout
    assert producer.offered > 500
    assert output.count("\n") >= lines
    assert bool(output) == bool(lines)


def test_its_producing_program_runs(run: Run) -> None:
    (program,) = blocks_of(README, "python", "Producer(")
    run(sys.executable, "-c", f"data, when = b'x' * 60, 1\n{program}")


def test_its_commands_publish_a_capture_and_read_it(capture: Path, run: Run, tmp_path: Path) -> None:
    (shown,) = blocks_of(README, "sh", "--wait-readers")
    make, replay, ls, stats, dump = (line.split("#")[0].split() for line in shown.splitlines())
    assert make == ["python", "examples/make_capture.py", "mix.pcap"]
    command = [str(BIN / replay[0]), *(str(capture) if word == "mix.pcap" else word for word in replay[1:])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as producer:
        assert producer.stderr is not None
        assert "ready" in producer.stderr.readline()
        assert "lab" in run(*ls).stdout
        assert "no reader" in run(*stats).stdout
        written = tmp_path / "out.pcapng"
        ended = run(*(written if word == "out.pcapng" else word for word in dump))
        report, _ = producer.communicate(timeout=30)
    assert "0 packets dropped" in ended.stderr
    assert producer.returncode == 0
    assert "packets offered" in report
    assert run("tcpdump", "-r", written).stdout == run("tcpdump", "-r", capture, "tcp port 80").stdout


def test_its_ratios_are_those_of_the_picture_and_of_the_page_of_measurements() -> None:
    program = (
        "from pathlib import Path\n"
        "from bench.headline import jobs\n"
        "from bench.tables import rows_of\n"
        "for _, row in jobs(rows_of(Path('docs/performance.md').read_text())):\n"
        "    print(f\"| {row['zbuf']} | {row['peer']} | {row['ratio']} ({row['spread']}) |\")"
    )
    measured = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    told = re.findall(r"^\|[^|]*(\|[^|]*\|[^|]*\| \d+\.\d+ \([\d.]+\) \|)$", text_of(README), re.MULTILINE)
    assert told == measured.stdout.splitlines()
    assert len(told) == 4


def words_of(svg: str) -> set[str]:
    """The words of a screen that rich drew, without numbers and what is drawn."""
    texts = re.findall(r'<text class="top-r\d"[^>]*>([^<]*)</text>', svg)
    return {word for text in texts for word in html.unescape(text).split() if re.fullmatch(r"[a-z][a-z/.]+", word)}


@pytest.mark.slow
def test_its_picture_of_top_is_what_the_command_shows_of_a_slow_reader(tmp_path: Path) -> None:
    drawn = tmp_path / "top.svg"
    subprocess.run([sys.executable, ROOT / "docs" / "pictures" / "top.py", drawn], check=True, timeout=300)
    committed = (ROOT / "docs" / "pictures" / "top.svg").read_text()
    assert words_of(drawn.read_text()) == words_of(committed)
    assert {"descriptor", "received/s", "stalls", "slow"} <= words_of(committed)
