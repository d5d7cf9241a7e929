"""zbuf top: its rates, its tables, and the command on a terminal and off one."""

import contextlib
import fcntl
import itertools
import json
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands, command, run, wait_line
from support.live_lab import LiveLab, frame, send
from support.network import Network, needs_namespace
from support.processes import LIMIT_S, Lab, Remote

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection
from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.top import watch
from zbuf.consumer.tools.top.cells import ASCII, BLOCKS, bar, per_second, sparkline
from zbuf.consumer.tools.top.layout import Column, allot, compose, fit
from zbuf.consumer.tools.top.rates import HISTORY, Compared, History, compare, is_slow
from zbuf.consumer.tools.top.view import heading, json_line, report, sections
from zbuf.consumer.tools.top.watch import Captures, Seen
from zbuf.consumer.tools.words import duration
from zbuf.producer import Producer
from zbuf.shared.control.settings import Settings
from zbuf.shared.control.statistics import (
    DescriptorStatistics,
    InterfaceStatistics,
    Ledger,
    ReaderStatistics,
    Statistics,
)
from zbuf.shared.errors import Refused, ValueRefused
from zbuf.shared.names import printable

PAGE = 4096


@pytest.fixture(autouse=True)
def _run_dir(run_dir: Path) -> Path:
    """All of these tests have a run directory of their own."""
    return run_dir


# ---- made-up statistics ---------------------------------------------------------------------------------------------


def reader(number: int = 2, **counts: Any) -> ReaderStatistics:
    return ReaderStatistics(**{"reader": number, "pid": os.getpid(), "delivered": 0, "holding": 0} | counts)


def descriptor(number: int = 1, *readers: ReaderStatistics, **counts: Any) -> DescriptorStatistics:
    settings = Settings(filter=counts.pop("filter", ""), buffer_bytes=counts.pop("buffer_bytes", PAGE))
    fixed: dict[str, Any] = {"descriptor": number, "join": None, "settings": settings, "bells": 0, "open": True}
    return DescriptorStatistics(**fixed | {"readers": list(readers)} | counts)


def interface(name: str = "eth0", **counts: Any) -> InterfaceStatistics:
    fixed = dict.fromkeys(("received", "taken", "dropped_by_kernel", "dropped_by_interface", "lost"), 0)
    return InterfaceStatistics(**{"interface": name, "engine": "pcap", "state": "up"} | fixed | counts)


def producer(uptime_s: float, *descriptors: DescriptorStatistics, **more: Any) -> Statistics:
    fixed: dict[str, Any] = {"producer": "lab", "pid": 7, "epoch": 1, "linktypes": [1], "interfaces": ["eth0"]}
    counts = {"offered": 0, "waits": 0, "closed": Ledger()}
    return Statistics(**fixed | counts | {"uptime_s": uptime_s, "descriptors": list(descriptors)} | more)


def seen(now: Statistics, before: Statistics | None = None) -> Seen:
    return Seen(now.producer, History().note(compare(before, now)))


def text_of(*updates: Seen) -> list[str]:
    return [line.plain for line in report(updates)]


# ---- rates ----------------------------------------------------------------------------------------------------------


def test_rates_are_what_counts_grew_by_over_the_producers_own_clock() -> None:
    before = producer(
        10.0, descriptor(1, reader(2, delivered=5), received=100, accepted=50), offered=100, live=[interface(taken=100)]
    )
    now = producer(
        12.0,
        descriptor(1, reader(2, delivered=25, stalls=1, stalled=6), received=300, accepted=150, dropped=6),
        offered=400,
        live=[interface(taken=400, dropped_by_kernel=3)],
    )
    found = compare(before, now)
    assert (found.interval_s, found.rates["offered"]) == (2.0, 150.0)
    (one,) = found.descriptors
    assert (one.rates["received"], one.rates["accepted"], one.rates["dropped"]) == (100.0, 50.0, 3.0)
    assert dict(one.readers[0].rates) == {"delivered": 10.0, "stalls": 0.5, "stalled": 3.0}
    (live,) = found.live
    assert (live.rates["taken"], live.rates["dropped_by_kernel"]) == (150.0, 1.5)


def test_first_statistics_have_no_rates() -> None:
    found = compare(None, producer(10.0, descriptor(1, reader(), received=100), offered=100, live=[interface()]))
    assert not any([found.rates, found.interval_s, found.live[0].rates, found.descriptors[0].rates])
    assert found.descriptors[0].readers[0].rates == {}


@pytest.mark.parametrize("change", [{"epoch": 2}, {"pid": 8}, {"uptime_s": 9.0}, {"uptime_s": 10.0}], ids=str)
def test_producer_that_began_anew_has_no_rates(change: dict[str, Any]) -> None:
    one = descriptor(1, reader(2, delivered=9), received=1000)
    more: dict[str, Any] = {"uptime_s": 11.0, "offered": 9, "descriptors": [one]}
    now = producer(**more | change)
    found = compare(producer(10.0, one, offered=5), now)
    assert not any([found.rates, found.descriptors[0].rates, found.descriptors[0].readers[0].rates])


def test_ledger_that_began_anew_has_no_rates_and_takes_them_from_nobody_else() -> None:
    before = producer(1.0, descriptor(1, received=100, accepted=100), descriptor(2, received=100), offered=100)
    now = producer(2.0, descriptor(1, received=30, accepted=30), descriptor(2, received=150), offered=150)
    found = compare(before, now)
    assert [dict(one.rates).get("received") for one in found.descriptors] == [None, 50.0]
    assert found.rates["offered"] == 50.0


def test_descriptor_and_reader_that_are_new_have_no_rates() -> None:
    before = producer(1.0, descriptor(1, reader(2)))
    now = producer(2.0, descriptor(1, reader(2), reader(5)), descriptor(3, reader(4)))
    first, second = compare(before, now).descriptors
    assert [bool(one.rates) for one in (first, second)] == [True, False]
    assert [bool(one.rates) for one in (*first.readers, *second.readers)] == [True, False, False]


def test_reader_is_slow_only_where_packets_were_dropped_since_it_held_a_buffer() -> None:
    before = producer(1.0, descriptor(1, reader(2), reader(3), dropped=5))
    now = producer(2.0, descriptor(1, reader(2, holding=1), reader(3, holding=2, stalled=7), dropped=12))
    readers = compare(before, now).descriptors[0].readers
    assert [is_slow(one) for one in readers] == [False, True]


def accepted(history: History, *statistics: Statistics) -> list[float | None]:
    """The history after some answers."""
    before = None
    found: Compared | None = None
    for now in statistics:
        found = history.note(compare(before, now))
        before = now
    assert found is not None
    return list(found.descriptors[0].history)


def test_history_has_the_last_rates_and_begins_anew_with_the_producer() -> None:
    growing = [producer(at, descriptor(1, accepted=at * at)) for at in range(1, HISTORY + 5)]
    history = History()
    assert accepted(history, *growing) == [2 * at + 1 for at in range(4, HISTORY + 4)]
    assert accepted(history, producer(1.0, descriptor(1, accepted=3), epoch=2)) == []


def test_history_has_a_gap_where_the_ledger_began_anew() -> None:
    counts = [(1, 10), (2, 20), (3, 5), (4, 9)]
    assert accepted(History(), *(producer(at, descriptor(1, accepted=count)) for at, count in counts)) == [10, None, 4]


# ---- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0"), (0.01, "<0.1"), (0.26, "0.3"), (3, "3"), (9.96, "10.0"), (12.4, "12"), (1e6, "1,000,000")],
)
def test_rate_shows_as_zero_only_where_it_is(rate: float, text: str) -> None:
    assert per_second(rate) == text


def test_time_that_something_runs_is_written_as_ps_does() -> None:
    assert [duration(one) for one in (0, 61.9, 3661, 90061)] == ["00:00:00", "00:01:01", "01:01:01", "1-01:01:01"]


def test_bars_and_sparklines_show_something_for_whatever_there_is() -> None:
    assert [bar(share, ASCII) for share in (0, 0.001, 0.5, 1)] == [
        "----------",
        "#---------",
        "#####-----",
        "##########",
    ]
    assert sparkline([0, None, 1, 500, 1000], BLOCKS) == "▁ ▂▅█"
    assert sparkline([0, 0], ASCII) == "__"
    assert sparkline([], ASCII) == ""


def test_sparkline_and_bar_take_as_many_levels_as_there_are() -> None:
    assert sparkline(range(8), BLOCKS) == BLOCKS.levels
    assert sparkline(range(8), ASCII) == ASCII.levels


@pytest.mark.parametrize("text", ["\x1b[31m", "\x1b]0;title\x07", "a\nb", "\x9b2J", "‮", "\x7f", "\r", "\u2028"])
def test_nothing_in_a_text_is_obeyed_by_a_terminal(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(text) != text
    now = producer(1.0, descriptor(1, join=text, filter=text), producer=text, interfaces=[text], live=[interface(text)])
    updates = [seen(now), Seen(text, problem=text)]
    shown = [line.plain for line in report(updates)]
    assert all(line.isprintable() for line in shown)
    assert json_line(updates).rstrip("\n").isascii()
    assert not re.search(r"[\x00-\x1f]", json_line(updates).rstrip("\n"))


def test_drops_have_a_mark_that_is_no_colour_and_nothing_else_has() -> None:
    quiet = producer(1.0, descriptor(1, reader(2)), descriptor(3, reader(4)), live=[interface(), interface("eth1")])
    lossy = producer(
        2.0,
        descriptor(1, reader(2, holding=2, stalls=1, stalled=9), dropped=9),
        descriptor(3, reader(4)),
        live=[interface(dropped_by_kernel=4), interface("eth1", state="lost")],
    )
    assert not any("!" in line for line in text_of(seen(quiet, quiet)))
    marked = [line.split("! ") for line in text_of(seen(lossy, quiet)) if "!" in line]
    assert [[part.split()[0] for part in one[1:]] for one in marked] == [["4"], ["lost"], ["9"], ["9", "slow"]]


def test_slow_readers_come_first() -> None:
    before = producer(1.0, descriptor(1, reader(2)), descriptor(3, reader(4)), descriptor(5, reader(6)))
    now = producer(
        2.0, descriptor(1, reader(2)), descriptor(3, reader(4, stalled=3)), descriptor(5, reader(6, stalled=9))
    )
    readers = sections([seen(now, before)])[2]
    assert [row[2].plain for row in readers.rows] == ["6", "4", "2"]


def test_reader_s_process_and_user_are_named() -> None:
    line = next(line for line in text_of(seen(producer(1.0, descriptor(1, reader(2))))) if str(os.getpid()) in line)
    assert Path("/proc/self/comm").read_text().strip() in line
    assert "root" in line
    gone = producer(1.0, descriptor(1, reader(2, pid=2**22 + 1, user=987654)))
    line = next(line for line in text_of(seen(gone)) if str(2**22 + 1) in line)
    assert line.split()[4:6] == ["-", "987654"]


def test_buffers_fill_is_a_share_of_both() -> None:
    now = producer(1.0, descriptor(1, stored_bytes=PAGE // 2), descriptor(2, stored_bytes=9 * PAGE))
    shown = [row[10].plain for row in sections([seen(now)])[1].rows]
    assert shown == ["25%", "100%"]
    assert sections([seen(producer(1.0, descriptor(1, buffer_bytes=None)))])[1].rows[0][10].plain == "-"


def busy() -> list[Seen]:
    """A lot to be seen."""
    many = [
        descriptor(one, reader(2 * one), reader(2 * one + 1), received=10**12, filter="udp or " * 20, join="日本" * 9)
        for one in range(30)
    ]
    now = producer(1e6, *many, live=[interface(f"eth{one}", state="lost") for one in range(9)])
    return [seen(now, now), Seen("other", problem="has not answered for 3 s")]


@pytest.mark.parametrize("width", [1, 2, 7, 30, 59, 60, 80, 132, 500])
def test_what_is_shown_fits_a_terminal_of_any_size(width: int) -> None:
    updates = busy()
    for height in (1, 2, 3, 4, 5, 10, 24, 70, 200):
        lines = compose(report(updates)[0], sections(updates, BLOCKS), width, height)
        assert len(lines) <= height
        assert max(line.cell_len for line in lines) <= width


def test_terminal_that_is_low_shows_something_of_each_table_and_how_much_is_missing() -> None:
    updates = busy()
    lines = [line.plain for line in compose(report(updates)[0], sections(updates), 200, 16)]
    assert len(lines) == 16
    assert [line for line in lines if line.startswith("...")] == [
        "... 7 more sources",
        "... 27 more descriptors",
        "... 57 more readers",
    ]


def test_tables_that_are_longest_give_way_first() -> None:
    assert allot([3, 10, 50], 63) == [3, 10, 50]
    assert allot([3, 10, 50], 20) == [3, 9, 8]
    assert allot([3, 10, 50], 4) == [2, 1, 1]
    assert allot([3, 10], -1) == [0, 0]
    assert allot([], 0) == []


def test_columns_shrink_before_any_is_left_out_and_the_highest_rank_goes_first() -> None:
    columns = [Column("name"), Column("filter", rank=1, least=6), Column("rate"), Column("more", rank=2)]
    wanted = [8, 20, 6, 10]
    assert fit(columns, wanted, 50) == wanted
    assert fit(columns, wanted, 40) == [8, 10, 6, 10]
    assert fit(columns, wanted, 36) == [8, 6, 6, 10]
    assert fit(columns, wanted, 35) == [8, 17, 6, 0]
    assert fit(columns, wanted, 20) == [8, 0, 6, 0]
    assert fit(columns, wanted, 1) == [8, 0, 6, 0]


# ---- asking ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def captures() -> Iterator[Captures]:
    """All producers of the test."""
    with Captures([], None) as captures:
        yield captures


def found(captures: Captures) -> Compared:
    """The one producer that there is."""
    (one,) = captures.update()
    assert one.found is not None, one.problem
    return one.found


def test_rates_of_a_real_producer_are_the_packets_that_it_was_given(lab: Lab, captures: Captures) -> None:
    with connect(lab.name, filter="len > 100", buffer_size=PAGE) as reading:
        assert found(captures).rates == {}
        lab.append(7)
        lab.append(40, size=200)
        now = found(captures)
        grown = {name: rate * now.interval_s for name, rate in now.descriptors[0].rates.items()}
        dropped = grown.pop("dropped")
        assert now.rates["offered"] * now.interval_s == pytest.approx(47)
        assert grown == pytest.approx(
            {
                "received": 47,
                "filtered": 7,
                "accepted": 40,
                "delivered": 0,
                "abandoned": 0,
                "truncated": 0,
                "received_bytes": 7 * 60 + 40 * 200,
            }
        )
        assert dropped == pytest.approx(now.now.descriptors[0].dropped)
        assert dropped > 0
        assert [is_slow(one) for one in now.descriptors[0].readers] == [True]
        assert reading.next_buffer(timeout=LIMIT_S) is not None


def test_flush_gives_no_rates_once_and_right_ones_then(lab: Lab, captures: Captures) -> None:
    with connect(lab.name) as reading:
        lab.append(10)
        found(captures)
        reading.flush()
        assert found(captures).descriptors[0].rates == {}
        lab.append(3)
        now = found(captures)
        assert now.descriptors[0].rates["accepted"] * now.interval_s == pytest.approx(3)


def test_one_connection_and_one_request_for_each_update(
    lab: Lab, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class Counted(Connection):
        def __init__(self, *arguments: Any) -> None:
            calls.append("connect")
            super().__init__(*arguments)

        def request(self, request: Any, descriptors: int = 0) -> Any:
            calls.append(type(request).__name__)
            return super().request(request, descriptors)

    monkeypatch.setattr(watch, "Connection", Counted)
    for _ in range(3):
        found(captures)
    assert calls == ["connect", "Stats", "Stats", "Stats"]
    assert lab.descriptors() == []


def test_producers_come_and_go_from_update_to_update(
    remote: Callable[[], Remote], producer_name: str, captures: Captures
) -> None:
    assert captures.update() == []
    first, second = Lab(remote(), f"{producer_name}a"), Lab(remote(), f"{producer_name}b")
    assert [one.name for one in captures.update()] == [first.name, second.name]
    first.kill()  # which leaves its socket there
    assert [one.name for one in captures.update()] == [second.name]
    second.close()
    assert captures.update() == []


def test_producer_that_was_killed_and_is_back_at_the_next_update_has_rates_of_its_own(
    remote: Callable[[], Remote], producer_name: str, captures: Captures
) -> None:
    lab = Lab(remote(), producer_name)
    lab.append(1000)
    epoch = found(captures).now.epoch
    lab.kill()
    lab = Lab(remote(), producer_name)
    lab.append(2000)
    now = found(captures)
    assert now.now.epoch != epoch
    assert (now.rates, now.interval_s) == ({}, 0.0)
    lab.append(5)
    now = found(captures)
    assert now.rates["offered"] * now.interval_s == pytest.approx(5)


def wait_stopped(pid: int) -> None:
    """Wait until all threads of a process are stopped: a signal takes its time."""
    limit = time.monotonic() + LIMIT_S
    while any(one.read_text().rsplit(")", 1)[1].split()[0] != "T" for one in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < limit, "it does not stop"


def stop(lab: Lab) -> None:
    """Have a producer answer nobody."""
    lab.process.signal(signal.SIGSTOP)
    wait_stopped(lab.process.pid)


def test_producer_that_does_not_answer_is_waited_for_once_and_holds_up_no_other(
    remote: Callable[[], Remote], producer_name: str, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, lab = Lab(remote(), f"{producer_name}a"), Lab(remote(), f"{producer_name}b")
    assert all(one.found for one in captures.update())
    stopped.append(10)
    stop(stopped)
    monkeypatch.setattr(watch, "ANSWER_S", 0.2)
    silent, other = captures.update()
    assert re.fullmatch(r"has not answered for \d+ s", silent.problem)
    assert other.found is not None
    monkeypatch.setattr(watch, "ANSWER_S", 2 * LIMIT_S)  # it would be noticed if this were waited for
    started = time.monotonic()
    lab.append(3)
    silent, other = captures.update()
    assert time.monotonic() - started < LIMIT_S
    assert silent.problem
    assert other.found is not None
    assert other.found.rates["offered"] * other.found.interval_s == pytest.approx(3)
    assert "! has not answered" in "\n".join(text_of(silent, other))
    stopped.process.signal(signal.SIGCONT)
    while (silent := captures.update()[0]).problem:
        assert time.monotonic() - started < LIMIT_S
    assert silent.found is not None
    assert silent.found.rates["offered"] * silent.found.interval_s == pytest.approx(10)


def test_hanging_up_while_an_answer_is_to_come_leaves_no_connection_behind(
    remote: Callable[[], Remote], producer_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(remote(), producer_name)
    lab.wait_fds(before := lab.process.fds)
    monkeypatch.setattr(watch, "ANSWER_S", 0.05)
    with Captures([], None) as captures:
        stop(lab)
        assert captures.update()[0].problem
    lab.process.signal(signal.SIGCONT)
    lab.wait_fds(before)


def test_producer_that_refuses_is_shown_and_let_alone(
    lab: Lab, captures: Captures, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Refusing(Connection):
        def stats(self) -> Statistics:
            asked.append("stats")
            raise Refused("you may see nothing")

    monkeypatch.setattr(watch, "Connection", Refusing)
    for _ in range(3):
        (one,) = captures.update()
        assert (one.name, one.problem) == (lab.name, "refuses: you may see nothing")
    assert asked == ["stats"]
    monkeypatch.setattr(watch, "REFUSED_S", 0)
    captures.update()
    assert asked == ["stats", "stats"]


def test_named_producer_that_does_not_run_is_missed_and_a_socket_of_another_name_is_not(run_dir: Path) -> None:
    for name in ("foreign", "a b\x1b"):
        (run_dir / f"{name}.sock").touch()
    with Captures([], None) as captures:
        assert captures.update() == []
    with Captures(["nobody", "nobody"], None) as captures:
        (one,) = captures.update()
        assert (one.name, one.missing) == ("nobody", True)
        assert one.problem.startswith("no producer 'nobody' runs in ")
    with pytest.raises(ValueRefused, match="producer name 'a b'"):
        Captures(["a b"], None)


def test_heading_says_how_much_there_is() -> None:
    assert heading([]).endswith("  no producer runs")
    one = seen(producer(1.0, descriptor(1, reader(2), reader(3))))
    assert heading([one]).endswith("  1 producer, 1 descriptor, 2 readers")
    assert heading([one, Seen("b", problem="x")]).endswith("  1 producer, 1 descriptor, 2 readers")


# ---- off a terminal -------------------------------------------------------------------------------------------------


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
    """A reader that reads nothing, of a producer that appends without an end."""
    with connect(lab.name, filter="len > 100\r or len < 1", buffer_size=PAGE) as reading:
        feed(lab)
        yield reading


def columns_of(lines: list[str], first: str) -> dict[str, str]:
    """The first row of the table whose columns have `first` among them, by those; columns are two spaces apart."""
    at = next(at for at, line in enumerate(lines) if first in line)
    heads = {match.start(): match[0] for match in re.finditer(r"\S+(?: \S+)*", lines[at])}
    ends = [match.end() for match in re.finditer(r"\S+(?: \S+)*", lines[at])]
    row = [(match.start(), match.end(), match[0]) for match in re.finditer(r"\S+(?: \S+)*", lines[at + 1])]
    cells = {}
    for (start, head), end in zip(heads.items(), ends, strict=True):
        cells[head] = next(text for begin, over, text in row if begin < end and over > start)
    return cells


def number(text: str) -> float:
    return float(text.removeprefix("! ").replace(",", ""))


@pytest.mark.usefixtures("busy_lab")
def test_once_prints_tables_whose_numbers_add_up(lab: Lab) -> None:
    done = run("zbuf", "top", "--once", "-d", "0.2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].endswith("  1 producer, 1 descriptor, 1 reader")
    source, one, reads = (columns_of(lines, head) for head in ("interface", "received/s", "process"))
    assert (source["producer"], source["pid"], source["interface"]) == (lab.name, str(lab.process.pid), lab.name)
    assert number(source["packets/s"]) == pytest.approx(number(one["received/s"]), abs=1)
    assert number(one["received/s"]) == pytest.approx(2 * number(one["accepted/s"]), rel=0.01, abs=20)
    assert number(one["accepted/s"]) == number(one["drops/s"]) == number(reads["drops/s meanwhile"]) > 0
    assert one["drops/s"].startswith("! ")
    assert one["filter"] == r"len > 100\r or len < 1"
    assert number(one["dropped"]) > 0
    assert 80 <= int(one["buffer"].rstrip("%")) <= 100
    assert (reads["pid"], reads["packets/s"], reads["held"]) == (str(os.getpid()), "0", "2")
    assert "! slow" in lines[-2]
    assert lines[-1] == ""


@pytest.mark.usefixtures("busy_lab")
@pytest.mark.parametrize("forced", [{}, {"FORCE_COLOR": "1", "TERM": "xterm-256color", "TTY_COMPATIBLE": "1"}], ids=str)
def test_nothing_but_text_is_printed_off_a_terminal(forced: dict[str, str]) -> None:
    done = run("zbuf", "top", "-n", "2", "-d", "0.1", env=os.environ | forced)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("received/s") == 2
    assert all(line.isprintable() for line in done.stdout.splitlines())


@pytest.mark.usefixtures("busy_lab")
def test_lines_of_json_have_rates_that_the_counts_confirm() -> None:
    done = run("zbuf", "top", "--json", "-n", "3", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    updates = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(updates) == 3
    for before, now in itertools.pairwise(updates):
        assert before["time"] < now["time"]
        (was,), (one,) = before["producers"], now["producers"]
        assert one["interval_s"] == pytest.approx(one["uptime_s"] - was["uptime_s"])
        assert one["rates"]["offered"] * one["interval_s"] == pytest.approx(one["offered"] - was["offered"])
        (old,), (new,) = was["descriptors"], one["descriptors"]
        for name, rate in new["rates"].items():
            assert rate * one["interval_s"] == pytest.approx(new[name] - old[name])
        assert new["rates"]["received"] == pytest.approx(new["rates"]["filtered"] + new["rates"]["accepted"])
        assert new["received"] == new["filtered"] + new["accepted"]
        assert new["readers"][0]["slow"] is True
        assert new["readers"][0]["rates"]["stalled"] > 0


def test_json_of_once_has_rates_and_of_no_producer_an_empty_list(lab: Lab) -> None:
    done = run("zbuf", "top", lab.name, "--json", "--once", "-d", "0.1")
    (one,) = json.loads(done.stdout)["producers"]
    assert one["rates"] == {"offered": 0, "waits": 0}
    lab.close()
    done = run("zbuf", "top", "--json", "--once", "-d", "0.1")
    assert (done.returncode, json.loads(done.stdout)["producers"], done.stderr) == (0, [], "")


def test_producer_that_dies_and_returns_is_followed_by_its_name(
    commands: Commands, remote: Callable[[], Remote], producer_name: str
) -> None:
    lab = Lab(remote(), producer_name)
    lab.append(1000)
    process = commands.start("zbuf", "top", producer_name, "--json", "-d", "0.1")

    def wait_for(part: str) -> dict[str, Any]:
        (one,) = json.loads(wait_line(process.stdout, part))["producers"]
        assert isinstance(one, dict)
        assert all(rate >= 0 for rate in one.get("rates", {}).values())
        return one

    assert wait_for('"interval_s": 0.')["rates"] == {"offered": 0, "waits": 0}
    lab.kill()
    assert wait_for('"problem"')["problem"].startswith(f"no producer '{producer_name}' runs")
    lab = Lab(remote(), producer_name)
    found = wait_for('"interval_s"')
    assert (found["interval_s"], found["rates"]) == (0, {})
    assert wait_for('"rates": {"offered": ')["pid"] == lab.process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def test_without_a_producer_it_says_so_and_waits_for_one(commands: Commands, producer_name: str) -> None:
    done = run("zbuf", "top", "--once", "-d", "0.1")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"\d\d:\d\d:\d\d  no producer runs\n\n", done.stdout)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = commands.start("zbuf", "top", "-d", "0.1", env=buffered)
    wait_line(process.stdout, "no producer runs")
    with Producer(producer_name, linger_s=0):
        wait_line(process.stdout, f"{producer_name}  {os.getpid()}")
    wait_line(process.stdout, "no producer runs")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, "")


def test_named_producer_that_is_not_there_is_an_error_of_once_alone(commands: Commands) -> None:
    done = run("zbuf", "top", "nobody", "--once")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"zbuf: no producer 'nobody' runs in .*: start it with zbufd\n", done.stderr)
    process = commands.start("zbuf", "top", "nobody", "-d", "0.1")
    assert "! no producer 'nobody' runs in" in wait_line(process.stdout, "nobody")


def test_only_those_that_are_named_are_shown(producer_name: str) -> None:
    with Producer(f"{producer_name}a"), Producer(f"{producer_name}b"), Producer(f"{producer_name}c"):
        done = run("zbuf", "top", f"{producer_name}c", f"{producer_name}a", "--once", "--json", "-d", "0.1")
    assert [one["producer"] for one in json.loads(done.stdout)["producers"]] == [
        f"{producer_name}c",
        f"{producer_name}a",
    ]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["tables", "json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_quietly_off_a_terminal(commands: Commands, options: list[str], number: int) -> None:
    process = commands.start("zbuf", "top", "-d", "0.1", *options)
    wait_line(process.stdout, "")
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, said) == (0, "")


def test_pipe_that_breaks_is_a_quiet_end(commands: Commands) -> None:
    process = commands.start("zbuf", "top", "-d", "0.1")
    wait_line(process.stdout, "no producer")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(LIMIT_S) in (0, 1)
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["-d", "0"], "'0' is not a number of seconds, from 0.1 to 86400"),
        (["-d", "1e9"], "'1e9' is not a number of seconds"),
        (["-d", "nan"], "'nan' is not a number of seconds"),
        (["-d", "soon"], "'soon' is not a number of seconds"),
        (["-n", "0"], "'0' is not a whole number, 1 or more"),
        (["--once", "-n", "2"], "leave out --count"),
    ],
    ids=str,
)
def test_option_that_makes_no_sense_is_one_line_of_usage(options: list[str], part: str) -> None:
    done = run("zbuf", "top", *options)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert part in done.stderr


@needs_namespace
@pytest.mark.slow
def test_live_interfaces_are_shown_with_their_state(wire: Network, commands: Commands, producer_name: str) -> None:
    live = LiveLab(wire, commands, producer_name, "-i", "za", "-i", "zb")
    process = commands.start("zbuf", "top", "-d", "0.1")
    for name in ("za", "zb"):
        assert re.search(rf"  {name}  +up  +0  +0  +0  +0$", wait_line(process.stdout, f"  {name}  "))
    send(wire, [frame(number) for number in range(50)])
    while re.search(r"  zb  +up  +0 ", wait_line(process.stdout, "  zb  ")):
        pass
    wire.ip("link", "set", "zb", "down")
    live.wait_line("zb: is down")
    lines = iter(lambda: wait_line(process.stdout, "! down"), None)
    assert next(one for one in lines if "  zb  " in one).split()[3:6] == ["zb", "!", "down"]
    live.end()


# ---- on a terminal --------------------------------------------------------------------------------------------------

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
