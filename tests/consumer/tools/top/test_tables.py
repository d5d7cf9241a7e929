"""zbuf top: its tables, and how they fit a terminal."""

import os
import re
from pathlib import Path

import pytest
from support.statistics import PAGE, descriptor, interface, producer, reader, seen, text_of

from zbuf.consumer.tools.top.cells import ASCII, BLOCKS, bar, per_second, sparkline
from zbuf.consumer.tools.top.fitting import Column, allot, compose, fit
from zbuf.consumer.tools.top.view import json_line, report, sections
from zbuf.consumer.tools.top.watch import Seen
from zbuf.consumer.tools.words import duration
from zbuf.shared.names import printable

pytestmark = pytest.mark.usefixtures("run_dir")


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
