"""Options' values that need no conversion are taken as they are; typer converts the others."""

import enum
import sys
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.core import TyperCommand

from zbuf.shared.cli.options import whole_number
from zbuf.shared.cli.values import ConvertsSimply


class Colour(enum.StrEnum):
    RED = "red"


class Simply(ConvertsSimply, TyperCommand):
    pass


def values_of(*words: str, cls: type[TyperCommand] = Simply) -> dict[str, Any]:
    """The values of a command's parameters, or the message of the usage error."""
    found: dict[str, Any] = {}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    def command(
        words: Annotated[list[str] | None, typer.Argument()] = None,
        text: Annotated[str | None, typer.Option()] = None,
        several: Annotated[list[str] | None, typer.Option()] = None,
        flag: Annotated[bool, typer.Option("--flag")] = False,
        count: Annotated[int, typer.Option("-v", count=True)] = 0,
        number: Annotated[int, typer.Option()] = 3,
        parsed: Annotated[int | None, typer.Option(parser=whole_number(1))] = None,
        choice: Annotated[Literal["a", "b"], typer.Option()] = "a",
        colour: Annotated[Colour | None, typer.Option()] = None,
    ) -> None:
        found.update({name: value for name, value in locals().items() if name != "found"})

    app.command(cls=cls)(command)
    try:
        app(list(words), standalone_mode=False)
    except typer.TyperException as error:
        return {"error": error.format_message()}
    return found


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["one", "two"],
        ["--text", "", "--flag", "-vv"],
        ["--several", "x", "--several", "y"],
        ["--number", "7", "--parsed", "2"],
        ["--choice", "b", "--colour", "red"],
        ["--number", "x"],
        ["--parsed", "0"],
        ["--choice", "c"],
        ["--colour", "blue"],
    ],
    ids=" ".join,
)
def test_values_and_errors_are_those_of_typer(words: list[str]) -> None:
    assert values_of(*words) == values_of(*words, cls=TyperCommand)
    assert type(values_of("--colour", "red")["colour"]) is Colour


def test_values_that_need_no_conversion_import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer._adapters", None)  # an import of it raises
    words = [
        "one",
        "--text",
        "t",
        "--several",
        "x",
        "--flag",
        "-v",
        "--parsed",
        "2",
        "--choice",
        "b",
        "--colour",
        "red",
    ]
    assert values_of(*words)["parsed"] == 2
    with pytest.raises(ImportError):
        values_of("--number", "7")
