"""examples/ring.sh: the last packets, in a ring of files."""

import re
from pathlib import Path

from support.captures import Record, read_capture
from support.examples import PAGE, Start, outcome, publish
from support.processes import number_of, numbered

from zbuf.producer import Producer


def test_ring_keeps_the_last_packets_in_five_whole_files(
    producer_name: str, run_dir: Path, tmp_path: Path, example: Start
) -> None:
    del run_dir
    total = 8000
    with Producer(producer_name, lossless=True, buffer_size=4 * PAGE) as producer:
        process = example("ring.sh", producer.name, tmp_path / "ring.pcapng")
        publish(producer, [Record(numbered(number, 1000), number, 1000) for number in range(total)])
    _, errors, status = outcome(process)
    assert status == 0, errors
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5
    names = [re.fullmatch(r"ring_([0-9]{5})_[0-9]{14}\.pcapng", file.name) for file in files]
    places = [int(name[1]) for name in names if name]
    assert places == list(range(places[0], places[0] + 5))
    assert places[0] > 1, "the first file was to go"
    assert all(file.stat().st_size < 1_200_000 for file in files)
    found = [number_of(one.data) for file in files for one in read_capture(file.read_bytes()).records]
    assert found == list(range(total - len(found), total))
    assert len(found) * 1000 > 4_000_000 * 0.9
