"""What a producer warns its reader of, told once each."""

import logging
import sys

from zbuf.consumer.reading.reader import Reader
from zbuf.shared.names import printable


class Warnings:
    """Writes a reader's warnings to standard error, in place of the log that the reader writes for programs.

    A warning names interfaces, and somebody else chose those names: they are written so that a terminal obeys none.
    """

    def __init__(self) -> None:
        self._told: set[str] = set()
        logging.getLogger("zbuf").addFilter(lambda record: record.levelno >= logging.ERROR)

    def tell(self, reader: Reader) -> None:
        """Write the warnings that were not written yet."""
        for warning in reader.warnings:
            if warning not in self._told:
                self._told.add(warning)
                sys.stderr.write(f"zbuf: {printable(warning)}\n")
