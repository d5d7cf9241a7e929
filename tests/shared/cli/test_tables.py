"""Tables on standard output."""

import io
import sys

import pytest

from zbuf.shared.cli.tables import print_table


def test_numbers_are_set_to_the_right_and_nothing_that_a_terminal_obeys_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table("A title", ["name", "packets", ""], [["lab", 1234567, "x"], ["\x1b[31m", "-", "of\nlines"]])
    assert capsys.readouterr().out.splitlines() == [
        "A title",
        "name        packets",
        "lab       1,234,567  x",
        r"\x1b[31m          -  of\nlines",
    ]


def test_wide_and_combining_characters_take_the_room_that_they_have(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["name", "n"], [["日本", 1], ["u\u0308", 2]])
    assert capsys.readouterr().out.splitlines() == ["name  n", "日本  1", "u\u0308     2"]


def test_heading_is_bold_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for term, begins in (("xterm", "\x1b[1mname\x1b[0m\n"), ("dumb", "name\n")):
        terminal = Terminal()
        monkeypatch.setenv("TERM", term)
        monkeypatch.setattr(sys, "stdout", terminal)
        print_table("", ["name"], [["lab"]])
        monkeypatch.undo()
        assert terminal.getvalue() == f"{begins}lab\n"
