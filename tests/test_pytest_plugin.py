"""The pytest plugin: tests of other projects get a run directory, producers and replays of their own."""

import os
from pathlib import Path

import pytest
from support.captures import pcap
from support.replays import records

pytest_plugins = ["pytester"]

PROGRAM = """
    import os
    from pathlib import Path
    from zbuf import connect, producers

    def test_a_replay_is_read(zbuf_replay):
        with connect(zbuf_replay("lab.pcap", pps=1e6), filter="ether[0] < 100") as reader:
            assert sum(1 for _ in reader) == 144

    def test_a_replay_that_nobody_reads_ends_with_its_test(zbuf_replay):
        assert [zbuf_replay("lab.pcap"), zbuf_replay("lab.pcap")] == ["lab", "lab-2"]

    def test_a_producer_publishes_what_the_test_says(zbuf_producer):
        producer = zbuf_producer("lab", buffer_size="64k")
        reader = connect("lab")  # which the test leaves open
        producer.append(b"abc", time_ns=1)
        producer.rotate()
        assert [bytes(packet) for packet in reader.next_buffer(timeout=10)] == [b"abc"]
        reader.close()

    def test_the_directory_is_this_tests_own(zbuf_run_dir, zbuf_producer):
        assert producers() == []
        zbuf_producer()
        assert [one.producer for one in producers()] == ["lab"]
        Path("directory").write_text(str(zbuf_run_dir))
"""


def test_fixtures_give_each_test_its_own_producers_and_clean_up(pytester: pytest.Pytester) -> None:
    before = {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("zbuf.lab")}
    (pytester.path / "lab.pcap").write_bytes(pcap(records(300), nanoseconds=True))
    pytester.makepyfile(PROGRAM)
    outcome = pytester.runpytest_subprocess("-q", "-W", "error")
    outcome.assert_outcomes(passed=4)
    directory = Path((pytester.path / "directory").read_text())
    assert not directory.exists()
    assert {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith("zbuf.lab")} <= before


def test_fixtures_are_listed_with_what_they_do(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures", "-q")
    listed.stdout.fnmatch_lines(["zbuf_replay*", "*Call it to replay capture files*"])


def test_the_plugin_loads_nothing_of_zbuf_for_tests_that_do_not_use_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            assert {one for one in sys.modules if one.startswith(("zbuf.", "numpy", "scapy"))} == {
                "zbuf.pytest_plugin", "zbuf.shared", "zbuf.shared.lazy"
            }
        """
    )
    assert os.environ.get("PYTEST_PLUGINS") is None
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)
