"""What the two commands have in common: sub-commands that are imported when they run, help, and how errors are told."""

import logging
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from zbuf.shared.cli.values import ConvertsSimply
from zbuf.shared.errors import ZbufError
from zbuf.shared.patience import log as waits

# ---- sub-commands ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A sub-command: the function that it runs, and a line on what it does."""

    function: str
    """As "package.module:function"."""
    summary: str
    """For the list of commands; the function's own docstring is what --help shows."""
    context_settings: dict[str, Any] = field(default_factory=dict)


class _Commands(Mapping[str, Any]):
    """Sub-commands by name, each imported when it is first asked for."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _make_command(name, self.entries[name])
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _make_command(name: str, entry: Entry) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings: dict[str, Any] = {"short_help": entry.summary, "context_settings": entry.context_settings}
    alone.command(name, cls=_Command, **settings)(pkgutil.resolve_name(entry.function))
    return typer.main.get_command(alone)


class _Group(ConvertsSimply, TyperGroup):
    """A command with sub-commands, which lists them without importing them."""

    commands: Any

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the section "Commands" of --help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.commands.entries.items()])


class _Command(ConvertsSimply, TyperCommand):
    """A sub-command whose --help shows arguments as other tools do: NAME [FILTER...], without Python's types.

    typer has no setting for this: it would show {NAME} [[FILTER...]]..., and <list[str]> beside it.
    """

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The words after the command's name in the usage line."""
        return [self.options_metavar or "", *(_usage(one) for one in self.params if one.param_type_name == "argument")]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections "Arguments" and "Options" of --help."""
        sections: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for one in self.get_params(ctx):
            if (record := one.get_help_record(ctx)) is not None:
                shown = (_metavar(one), record[1].removesuffix("  [required]"))
                sections[one.param_type_name].append(shown if one.param_type_name == "argument" else record)
        for title, records in sections.items():
            if records:
                with formatter.section(f"{title.capitalize()}s"):
                    formatter.write_dl(records)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _usage(argument: Any) -> str:
    shown = _metavar(argument)
    return shown if argument.required or shown.startswith("[") else f"[{shown}]"


# ---- a command ------------------------------------------------------------------------------------------------------


def make_app(name: str, purpose: str, entries: Mapping[str, Entry]) -> typer.Typer:
    """Make the command `name`, with its sub-commands and --version."""

    class Group(_Group):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = _Commands(entries)

    app = typer.Typer(
        name=name,
        cls=Group,
        help=purpose,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            from zbuf import __version__

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
    """Run a command: an error is one line on stderr, and exit status 1 (2 for usage), never a traceback."""
    _fill_standard_streams()
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.INFO)
    waits.disabled = not sys.stderr.isatty()
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except typer.TyperException as error:
        _fail(name, f"{error.format_message().rstrip('.')} (see {_whose_help(app, name)} --help)", error.exit_code)
    except ZbufError as error:
        _fail(name, str(error), 1)
    except MemoryError:
        _fail(name, "out of memory", 1)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter would write again at its exit
        sys.exit(1)
    except OSError as error:
        _fail(name, f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _whose_help(app: typer.Typer, name: str) -> str:
    """The command whose --help explains the usage, such as "zbuf dump"."""
    known = getattr(typer.main.get_command(app), "commands", {})
    return " ".join([name, *(word for word in sys.argv[1:2] if word in known)])


def _fill_standard_streams() -> None:
    """Open /dev/null for each standard stream that is closed: the next file to be opened would take its place."""
    names = ("stdin", "stdout", "stderr")
    while (fd := os.open(os.devnull, os.O_RDWR)) < len(names):
        os.set_inheritable(fd, True)
        setattr(sys, names[fd], os.fdopen(fd, "w" if fd else "r", closefd=False))
    os.close(fd)


def _fail(name: str, message: str, status: int) -> NoReturn:
    from zbuf.shared.names import printable

    sys.stderr.write(f"{name}: {printable(' '.join(message.split()))}\n")
    sys.exit(status)
