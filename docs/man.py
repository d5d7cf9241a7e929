"""The manual pages zbuf(1), zbufd(1) and one for each of their commands, made from what --help prints.

    python docs/man.py FOLDER

The installed commands write their help into a formatter that writes roff (man(7)), so a page and --help cannot differ.
click-man, which does this for click, does not know typer's commands.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

import zbuf
from zbuf.consumer.cli import app as consumer
from zbuf.producer.cli import app as producer

_ENDING = """\
.SH EXIT STATUS
0 on success, 1 after an error (which is told in one line), 2 when the command line is wrong,
130 when the command was interrupted before it could end in good order.
.SH SEE ALSO
.BR {others} ,
.BR pcap\\-filter (7)
"""


def escape(text: str) -> str:
    """Text as roff prints it unchanged: hyphens that can be copied, and no line that begins as a request does."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.splitlines())


class Roff:
    """What a command sees as its HelpFormatter; `text` is the page so far."""

    width = 1_000_000  # a summary is never shortened to fit a line
    current_indent = 0

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        """Add roff as it is."""
        self.text += text

    def write_usage(self, program: str, arguments: str = "", prefix: str | None = None) -> None:  # noqa: ARG002
        """The line of usage."""
        self.write(f".SH SYNOPSIS\n.B {escape(program)}\n{escape(arguments)}\n.SH DESCRIPTION\n")

    def write_paragraph(self) -> None:
        """A gap before a paragraph: write_text() makes it."""

    def write_text(self, text: str) -> None:
        """Paragraphs, with a line left empty between each two."""
        self.write("\n.PP\n".join(escape(paragraph) for paragraph in text.split("\n\n")) + "\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: object, **__: object) -> None:
        """Terms, each with what it means."""
        for term, meaning in rows:
            self.write(f".TP\n.B {escape(term)}\n{escape(meaning) or 'No more is said of it.'}\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """A heading, and what the block writes below it."""
        self.write(f".SH {escape(name.upper())}\n")
        yield

    @contextmanager
    def indentation(self) -> Iterator[None]:
        """Nothing here: a heading indents."""
        yield


def page(context: typer.Context, others: str) -> str:
    """The manual page of one command."""
    command, name = context.command, context.command_path.replace(" ", "-")
    summary = " ".join((command.help or "").split("\n\n")[0].split()).rstrip(".")
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    roff = Roff()
    roff.write(f'.TH {escape(name.upper())} 1 {date} "zbuf {zbuf.__version__}" "User Commands"\n')
    roff.write(f".SH NAME\n{escape(name)} \\- {escape(summary)}\n")
    command.format_help(context, roff)  # type: ignore[arg-type]  # it asks for no more than Roff has
    return roff.text + _ENDING.format(others=others)


def pages(app: typer.Typer, name: str, sibling: str) -> Iterator[tuple[str, str]]:
    """The name and the text of each page that a command and its subcommands have."""
    group = typer.main.get_command(app)
    top = typer.Context(group, info_name=name, **group.context_settings)
    yield f"{name}.1", page(top, f"{sibling} (1)")
    for word, command in group.commands.items():  # type: ignore[attr-defined]
        yield f"{name}-{word}.1", page(typer.Context(command, info_name=word, parent=top), f"{name} (1)")


def main(folder: Path) -> None:
    """Write every page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in [*pages(consumer, "zbuf", "zbufd"), *pages(producer, "zbufd", "zbuf")]:
        (folder / file).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
