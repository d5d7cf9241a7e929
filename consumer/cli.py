"""zbuf: the command of the consumer side."""

from typing import Annotated, NoReturn

import typer

from zbuf.consumer.tools.dump.command import dump
from zbuf.consumer.tools.extcap.command import TOLERANT, extcap
from zbuf.consumer.tools.listing import ls, stats
from zbuf.consumer.tools.measure.command import measure
from zbuf.consumer.tools.salvaging import list_remains, salvage_to_files
from zbuf.consumer.tools.top.command import top
from zbuf.shared.cli.commandline import (
    Json,
    make_app,
    run,
    whole_number,
)

app = make_app("zbuf", "Read packets from a capture that a zbuf producer publishes, and see how it does.")

app.command()(dump)
app.command()(ls)
app.command()(stats)
app.command()(top)


@app.command()
def salvage(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The killed producer's; none lists them.")] = None,
    write: Annotated[str | None, typer.Option("-w", metavar="FILE", help="Write pcapng to FILE; - is stdout.")] = None,
    descriptor: Annotated[
        int | None, typer.Option(parser=whole_number(0), metavar="N", help="Of several descriptors, this one.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove segments that were written.")] = False,
    json: Annotated[bool, Json] = False,
) -> None:
    """Write what a killed producer's readers had not acknowledged; of several descriptors, a file for each."""
    if name is None:
        if write is not None or descriptor is not None or remove:
            raise typer.BadParameter("say whose packets to salvage: zbuf salvage lists the names")
        list_remains(json=json)
        return
    if write is None:
        raise typer.BadParameter(f"say where to write what is left of {name!r}: -w FILE")
    if remove and write == "-":
        raise typer.BadParameter("--remove needs a file: nobody can tell what became of standard output")
    salvage_to_files(name, write, descriptor=descriptor, remove=remove, json=json)


app.command(context_settings=TOLERANT)(extcap)
app.command()(measure)


def main() -> NoReturn:
    """The entry point of zbuf."""
    run(app, "zbuf")
