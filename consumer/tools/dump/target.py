"""The files that a dump is to write: tried before it connects, made once it has."""

import sys
import time
from dataclasses import dataclass

import typer

from zbuf.consumer.reading.reader import Reader
from zbuf.consumer.tools.dump.criteria import Plan
from zbuf.consumer.tools.dump.postrotate import Postrotate
from zbuf.consumer.tools.dump.savefile import Compression, Savefile, make_compressor, try_to_make
from zbuf.consumer.tools.dump.savefiles import Savefiles
from zbuf.shared.cli import privileges
from zbuf.shared.names import printable


@dataclass(frozen=True)
class Target:
    """Where to write, and in which form.

    Args:
        path: what -w says; None to print lines.
        plan: the files.
        compression: how to compress them.
        clobber: whether to overwrite files that exist.
        classic: whether to write classic pcap.
        postrotate: the command for each file that is whole.
    """

    path: str | None
    plan: Plan
    compression: Compression | None
    clobber: bool
    classic: bool
    postrotate: str | None

    def check(self) -> None:
        """Raise typer.BadParameter if an option needs a file to write, and there is none."""
        alone = self.compression is None and self.clobber and not self.classic and self.postrotate is None
        if self.path is None and not alone:
            raise typer.BadParameter("--compress, --no-clobber, -P and -z need a file to write: give -w FILE")
        if self.path == "-" and self.postrotate is not None:
            raise typer.BadParameter("-z runs a command for a file, and -w - is standard output: give -w FILE")
        Postrotate(self.postrotate)

    def try_first(self, user: str | None) -> None:
        """Raise the error that the first file would raise, were it made now by a user; nothing is changed."""
        make_compressor(self.compression)
        with privileges.acting_as(user):
            try_to_make(self.plan.make_names()(time.time()), clobber=self.clobber)

    def open(self, reader: Reader) -> Savefiles:
        """Make the first file, and return what makes the others."""

        def open_file(path: str) -> Savefile:
            return Savefile(path, reader, compression=self.compression, clobber=self.clobber, classic=self.classic)

        def tell(path: str) -> None:
            if self.plan.several:
                sys.stderr.write(f"zbuf: writing {printable(path)}\n")

        ended = Postrotate(self.postrotate)
        return Savefiles(reader, open_file, self.plan.make_names(), self.plan.limits, self.plan.keep, tell, ended)
