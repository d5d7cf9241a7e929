"""What all kinds of readers have in common is told once, and help() shows it for each of them."""

import inspect

import pytest

from zbuf.consumer import AsyncReader, Reader, ReconnectingReader

KINDS = [Reader, ReconnectingReader, AsyncReader]
COMMON = [
    *("name", "descriptor", "snaplen", "linktype", "linktypes", "prologue", "interfaces", "offered_before", "warnings"),
    *("stats", "rotate", "flush"),
]


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


@pytest.mark.parametrize("kind", KINDS)
def test_everything_public_of_a_reader_has_a_docstring(kind: type) -> None:
    assert [name for name in public(kind) if not inspect.getdoc(getattr(kind, name))] == []


@pytest.mark.parametrize("name", COMMON)
def test_what_readers_have_in_common_is_told_in_the_same_words(name: str) -> None:
    told = {getattr(kind, name).__doc__ for kind in KINDS}
    assert len(told) == 1
    assert None not in told


def test_whatever_a_reader_can_do_one_that_reconnects_can_do_too() -> None:
    assert set(public(Reader)) - set(public(ReconnectingReader)) == {"sequence", "sleeps"}


@pytest.mark.parametrize("name", ["stats", "rotate", "flush", "set_filter"])
def test_a_request_of_an_asynchronous_reader_is_a_coroutine_with_the_same_parameters(name: str) -> None:
    asked = getattr(AsyncReader, name)
    assert inspect.iscoroutinefunction(asked)
    assert inspect.signature(asked) == inspect.signature(getattr(Reader, name))
