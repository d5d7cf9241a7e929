"""Names of producers and groups: which can be used, which is made of a file's, and how names of others are shown."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zbuf.shared.errors import ValueRefused
from zbuf.shared.names import NAME_LENGTH_MAX, check_name, encodable, fit_name, name_from_path, printable

CALM = settings(max_examples=100, derandomize=True, database=None, deadline=None)


@pytest.mark.parametrize("name", ["a", "_", "7", "lab", "lab.1", "eth0", "a@b:c+d-e.f_g", "x" * NAME_LENGTH_MAX, "a.."])
def test_name_within_the_rules_is_returned_as_it_is(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".lab", "-lab", "+lab", "@lab", ":lab", "a/b", "/", "../lab", "lab\n", "lab\0", "a b", "läb", "٣"],
)
def test_name_that_breaks_the_rules_is_refused_and_named(name: str) -> None:
    with pytest.raises(ValueRefused, match=re.escape(f"producer name {name!r} can't be used: take letters")):
        check_name(name)


def test_name_that_is_too_long_is_refused_with_its_length() -> None:
    length = NAME_LENGTH_MAX + 1
    with pytest.raises(ValueRefused, match=rf"producer name 'x+' has {length} characters: use at most 48"):
        check_name("x" * length)


def test_name_that_is_enormous_does_not_fill_the_message() -> None:
    with pytest.raises(ValueRefused) as refused:
        check_name("x" * 100_000)
    assert len(str(refused.value)) < 200


def test_what_is_named_is_said() -> None:
    with pytest.raises(ValueRefused, match="group '' can't be used"):
        check_name("", "group")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("capture.pcap", "capture"),
        ("/var/tmp/my capture.pcapng.gz", "my_capture"),
        ("noon.2024.pcap", "noon.2024"),
        ("plain", "plain"),
        ("-", "stdin"),
        ("./-odd.pcap", "odd"),
        ("über.pcap", "_ber"),
        (".pcap", "capture"),
        ("..", "capture"),
        ("/", "capture"),
        ("", "capture"),
        ("x" * 100 + ".pcap", "x" * NAME_LENGTH_MAX),
    ],
)
def test_default_name_of_a_capture_is_its_file_s(path: str, name: str) -> None:
    assert name_from_path(path) == name


@CALM
@given(st.text(max_size=80))
@example("...gz")
@example("@.x")
def test_default_name_of_any_file_can_be_used(path: str) -> None:
    name = name_from_path(path)
    assert check_name(name) == name


def test_a_name_that_can_be_used_fits_as_it_is() -> None:
    assert fit_name("eth0.100@lab") == "eth0.100@lab"


def test_a_text_that_is_no_name_is_fitted_to_the_rules() -> None:
    assert [fit_name(text) for text in ("a b/c", "-odd", "x" * 100, "")] == ["a_b_c", "odd", "x" * 48, "capture"]


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "a\u202eb", "\x7f", "\udcff"])
def test_what_a_terminal_would_obey_or_hide_is_written_out(text: str) -> None:
    assert printable(text).isprintable()


def test_a_file_name_that_is_not_utf_8_can_be_encoded_with_question_marks() -> None:
    assert encodable("caf\udce9 é") == "caf? é"
