"""What both commands share: how errors leave them, how numbers, times and sizes are written."""

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from zbuf import __version__
from zbuf.shared.errors import ZbufError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_MOST_SECONDS = 1e9
"""Thirty years: longer waits do not fit into what the system counts them in."""
_SIZE = re.compile(r"([0-9]+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)

RunDir = typer.Option("--run-dir", envvar="ZBUF_RUN_DIR", metavar="DIR", help="Where producers are found.")
Json = typer.Option("--json", help="Print JSON.")


class _Command(TyperCommand):
    """A command whose --help says its arguments as other tools' do: NAME [FILTER...], with no types of Python's."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """What follows the command's name in the line of usage."""
        return [self.options_metavar or "", *(_usage(one) for one in self.params if one.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The sections below the description."""
        sections: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for one in self.get_params(ctx):
            if (record := one.get_help_record(ctx)) is not None:
                said = (_metavar(one), record[1].removesuffix("  [required]"))
                sections[one.param_type_name].append(said if one.param_type_name == "argument" else record)
        for title, records in sections.items():
            if records:
                with formatter.section(f"{title.capitalize()}s"):
                    formatter.write_dl(records)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _usage(argument: Any) -> str:
    said = _metavar(argument)
    return said if argument.required or said.startswith("[") else f"[{said}]"


class _App(typer.Typer):
    def command(self, name: str | None = None, **settings: Any) -> Any:
        return super().command(name, cls=_Command, **settings)


def make_app(name: str, purpose: str) -> typer.Typer:
    """An empty command `name` with sub-commands to come, and --version."""
    app = _App(
        name=name,
        help=purpose,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            sys.stdout.write(f"{name} {__version__}\n")
            raise typer.Exit

    @app.callback(invoke_without_command=True)
    def main(
        context: typer.Context,
        version: bool = typer.Option(
            False, "--version", callback=show_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        del version
        if context.invoked_subcommand is None:
            sys.stderr.write(context.get_help() + "\n")
            raise typer.Exit(2)

    main.__doc__ = purpose
    return app


def run(app: typer.Typer, name: str) -> NoReturn:
    """Run a command: one line on stderr for each error, exit 1 (2 for usage), never a traceback."""
    _fill_standard_streams()
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.INFO)
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except typer.TyperException as error:
        _fail(name, f"{error.format_message().rstrip('.')} (see {_told_by(app, name)} --help)", error.exit_code)
    except ZbufError as error:
        _fail(name, str(error), 1)
    except MemoryError:
        _fail(name, "out of memory", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter tries once more, at exit
        sys.exit(1)
    except OSError as error:
        _fail(name, f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _told_by(app: typer.Typer, name: str) -> str:
    """The command whose help has what was asked for, as in "zbuf dump"."""
    known = getattr(typer.main.get_command(app), "commands", {})
    return " ".join([name, *(word for word in sys.argv[1:2] if word in known)])


def _fill_standard_streams() -> None:
    """Those that are closed become /dev/null: else the next file has their number, and gets what is written there."""
    names = ("stdin", "stdout", "stderr")
    while (fd := os.open(os.devnull, os.O_RDWR)) < len(names):
        os.set_inheritable(fd, True)
        setattr(sys, names[fd], os.fdopen(fd, "w" if fd else "r", closefd=False))
    os.close(fd)


def _fail(name: str, message: str, status: int) -> NoReturn:
    sys.stderr.write(f"{name}: {' '.join(message.split())}\n")
    sys.exit(status)


def whole_number(least: int, most: int | None = None) -> Callable[[str | int], int]:
    """A parser of whole numbers, whose complaint names what was given."""

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
    """A parser of durations, whose complaint names what was given."""
    try:
        duration = float(text)
    except ValueError:
        duration = -1.0
    if not 0 <= duration <= _MOST_SECONDS:
        raise typer.BadParameter(f"{text!r} is not a number of seconds, from 0 to {_MOST_SECONDS:g}")
    return duration


def some_seconds(text: str | float) -> float:
    """seconds(), but not none of them."""
    duration = seconds(text)
    if not duration:
        raise typer.BadParameter(f"{text!r}: it must be more than 0 seconds")
    return duration


def size_in_bytes(text: str) -> int | None:
    """Bytes of a size like 4096, 512k, 2M or 1GiB; the units are powers of 1024. None where it is none."""
    match = _SIZE.fullmatch(text.strip())
    return None if match is None else int(match[1]) * _UNITS[match[2].lower()]


def parse_size(option: str, text: str) -> int:
    """size_in_bytes() of what was given for an option; raises a usage error where it is no size."""
    size = size_in_bytes(text)
    if size is None:
        raise typer.BadParameter(f"{option} {text!r} is no size: write bytes, or a number with k, M or G")
    return size
