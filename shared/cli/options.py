"""Options: parsers of values, options that several commands have, and options made from the fields of a struct."""

import copy
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import msgspec
import typer

from zbuf.shared.memory.sizes import size_in_bytes

_MOST_SECONDS = 1e9
"""Thirty years: the system's counters do not hold longer waits."""

# ---- values ---------------------------------------------------------------------------------------------------------


def whole_number(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """Make a parser of whole numbers from `least` to `most`; its error names the text."""

    def parse(text: str | int) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            bounds = f"{least} or more" if most is None else f"from {least} to {most}"
            raise typer.BadParameter(f"{text!r} is not a whole number, {bounds}")
        return number

    return parse


def seconds(text: str | float) -> float:
    """Parse a duration in seconds; the error names the text."""
    try:
        duration = float(text)
    except ValueError:
        duration = -1.0
    if not 0 <= duration <= _MOST_SECONDS:
        raise typer.BadParameter(f"{text!r} is not a number of seconds, from 0 to {_MOST_SECONDS:g}")
    return duration


def some_seconds(text: str | float) -> float:
    """Parse a duration of more than 0 seconds."""
    duration = seconds(text)
    if not duration:
        raise typer.BadParameter(f"{text!r}: it must be more than 0 seconds")
    return duration


def permissions(text: str | int) -> int:
    """Parse permissions in octal, such as 0660; the error names the text."""
    if isinstance(text, int):
        return text
    if not re.fullmatch("0?[0-7]{3}", text):
        raise typer.BadParameter(f"{text!r} are no permissions: write them in octal, such as 0660")
    return int(text, 8)


def parse_size(option: str, text: str) -> int:
    """The bytes of an option's size; raises a usage error if the text is not a size."""
    size = size_in_bytes(text)
    if size is None:
        raise typer.BadParameter(f"{option} {text!r} is not a size: write bytes, or a number with k, M or G")
    return size


# ---- options that several commands have -----------------------------------------------------------------------------

RunDir = Annotated[
    str | None, typer.Option("--run-dir", envvar="ZBUF_RUN_DIR", metavar="DIR", help="The directory of the sockets.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complete_producer(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the producers that run, for the completion of a shell."""
    from zbuf.shared.control.rundir_look import open_names

    return [name for name in open_names(context.params.get("run_dir")) if name.startswith(incomplete)]


OnlyProducer = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="The producer's name, as zbuf ls shows it [the only one that runs].",
        autocompletion=complete_producer,
    ),
]
Join = Annotated[str | None, typer.Option(metavar="GROUP", help="Share the descriptor of this name with others.")]
BufferSize = Annotated[str | None, typer.Option(metavar="S", help="Size of each of the two buffers, such as 8M.")]
Latency = Annotated[bool, typer.Option("--latency", help="Have one more reader measure latency, as zbuf measure does.")]


# ---- options from a struct ------------------------------------------------------------------------------------------


def takes(struct: type[msgspec.Struct]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of a struct that is annotated with a typer.Option.

    So a field's name, type, bounds, default and help are declared in the struct alone. The command's first argument is
    a dict of the options that were given, by the names of their fields.
    """
    parameters = [one for field in msgspec.structs.fields(struct) if (one := _parameter(struct, field)) is not None]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def call(**given: Any) -> None:
            wanted = {one.name: given.pop(one.name) for one in parameters}
            command({name: value for name, value in wanted.items() if value not in (None, False, [])}, **given)

        others = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        call.__doc__ = command.__doc__
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in [*parameters, *others]]
        )
        call.__annotations__ = {one.name: one.annotation for one in [*parameters, *others]}
        return call

    return decorate


def _parameter(struct: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> inspect.Parameter | None:
    hint = get_type_hints(struct, include_extras=True)[field.name]
    option = next((one for one in annotations(hint) if isinstance(one, typer.models.OptionInfo)), None)
    if option is None:
        return None
    kind = _plain(hint)
    bounds = [one for one in annotations(hint) if isinstance(one, msgspec.Meta) and one.ge is not None]
    if kind is int and bounds:
        option = copy.copy(option)
        option.parser = whole_number(int(bounds[0].ge or 0), None if bounds[0].le is None else int(bounds[0].le))
    annotation: Any = Annotated[kind if kind is bool else kind | None, option]
    default = False if kind is bool else None
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def annotations(hint: Any) -> list[Any]:
    """All annotations of a type, and of the types in it."""
    inner = [one for each in getattr(hint, "__args__", ()) for one in annotations(each)]
    return [*getattr(hint, "__metadata__", ()), *inner]


def _plain(hint: Any) -> Any:
    """The type without annotations and without None."""
    while hasattr(hint, "__metadata__"):
        hint = hint.__origin__
    found = [one for one in getattr(hint, "__args__", ()) if one is not type(None)]
    is_optional = len(found) < len(getattr(hint, "__args__", ()))
    return _plain(found[0]) if is_optional else hint
