"""The options of connect(): declared once, and known to type checkers, editors and help()."""

import inspect
import os
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from zbuf.consumer import connect, connect_async
from zbuf.consumer.reading.options import Options
from zbuf.shared import control
from zbuf.shared.errors import ValueRefused

FACES: list[Callable[..., Any]] = [connect, connect_async]


@pytest.mark.parametrize("face", FACES)
def test_the_signature_shows_the_name_every_option_and_whether_to_reconnect(face: Callable[..., Any]) -> None:
    parameters = inspect.signature(face).parameters
    assert next(iter(parameters)) == "name"
    assert set(parameters) == {"name", "reconnect", *Options.__struct_fields__}
    assert {one.kind for one in parameters.values()} == {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }
    assert parameters["snaplen"].default == 262144
    assert parameters["snaplen"].annotation is int
    assert parameters["direction"].annotation == Literal["in", "out", "inout"]
    assert parameters["run_dir"].annotation == str | os.PathLike[str] | None


def test_the_docstring_tells_what_each_argument_does() -> None:
    documentation = inspect.getdoc(connect) or ""
    assert all(f"    {name}: " in documentation for name in inspect.signature(connect).parameters)


@pytest.mark.parametrize("face", FACES)
def test_an_option_that_does_not_exist_is_a_type_error_at_the_call(face: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="no_such"):
        face("lab", no_such=1)
    with pytest.raises(TypeError):
        face()


def test_what_the_producer_is_asked_for_is_what_was_chosen() -> None:
    request = Options(
        filter="tcp", snaplen=96, buffer_size=8192, immediate=True, timeout_ms=5, direction="in"
    ).request()
    assert request.settings == control.Settings(
        filter="tcp", snaplen=96, buffer_bytes=8192, immediate=True, timeout_ms=5, direction="in"
    )
    assert request.join is None


def test_a_group_is_joined_as_it_is_unless_something_was_chosen() -> None:
    assert Options(join="ids").request().settings is None
    assert Options(join="ids", snaplen=96).request().settings == control.Settings(snaplen=96)
    assert Options().request().settings == control.Settings()


@pytest.mark.parametrize(
    ("wait", "spin_us", "spin_ns"), [("sleep", 50, 50_000), ("sleep", 0, 0), ("spin", 50, -1), ("spin", 0, -1)]
)
def test_to_spin_is_to_look_for_ever(wait: Any, spin_us: int, spin_ns: int) -> None:
    assert Options(wait=wait, spin_us=spin_us).spin_ns == spin_ns


@pytest.mark.parametrize("expression", ["ip\0", "host \udcff", "x" * 4097])
def test_a_filter_that_no_producer_could_read_is_refused(expression: str) -> None:
    with pytest.raises(ValueRefused, match=r"^filter"):
        msgspec.structs.replace(Options(), filter=expression).check()
