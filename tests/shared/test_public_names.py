"""What `import zbuf` offers: every public name, and nothing loaded before it is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import zbuf
import zbuf.consumer
import zbuf.errors
import zbuf.producer
import zbuf.shared.errors

HOMES = [zbuf.consumer, zbuf.errors, zbuf.producer]


def imported_by(program: str) -> set[str]:
    """The modules that a program imports, by Python's own account."""
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_every_public_name_of_the_two_sides_and_of_the_errors_is_there() -> None:
    assert set(zbuf.__all__) == {name for home in HOMES for name in home.__all__}
    for home in HOMES:
        for name in home.__all__:
            assert getattr(zbuf, name) is getattr(home, name)


def test_every_error_has_its_home_in_zbuf_errors() -> None:
    defined = {name for name, one in vars(zbuf.shared.errors).items() if isinstance(one, type)}
    assert set(zbuf.errors.__all__) == defined
    assert all(issubclass(getattr(zbuf.errors, name), zbuf.ZbufError) for name in defined)


def test_type_checkers_see_the_names_that_are_there() -> None:
    [seen] = [
        statement
        for statement in ast.parse(Path(zbuf.__file__).read_text()).body
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    ]
    imports = [one for one in seen.body if isinstance(one, ast.ImportFrom)]
    assert sorted(alias.asname or "" for one in imports for alias in one.names) == zbuf.__all__
    for one in imports:
        assert {alias.name for alias in one.names} <= set(importlib.import_module(one.module or "").__all__)


def test_names_are_listed_and_others_are_an_attribute_error() -> None:
    assert {*zbuf.__all__, "__version__"} <= set(dir(zbuf))
    with pytest.raises(AttributeError, match="module 'zbuf' has no attribute 'no_such'"):
        getattr(zbuf, "".join(["no_", "such"]))


def test_importing_zbuf_loads_neither_side_nor_numpy() -> None:
    loaded = {one for one in imported_by("import zbuf") if one.startswith(("zbuf.", "numpy", "msgspec"))}
    assert loaded == {"zbuf.shared", "zbuf.shared.lazy"}


@pytest.mark.parametrize(
    ("program", "other"),
    [
        ("import zbuf.consumer", "zbuf.producer"),
        ("from zbuf import connect, connect_async, Reader, Packet, Buffer, StaleBuffer", "zbuf.producer"),
        ("import zbuf.producer", "zbuf.consumer"),
        ("from zbuf import Producer, FileSource, ZbufError", "zbuf.consumer"),
    ],
)
def test_one_side_does_not_load_the_other(program: str, other: str) -> None:
    modules = imported_by(program)
    assert {one for one in modules if one == other or one.startswith(f"{other}.")} == set()
    assert "zbuf" in modules
