"""How packets are printed: tcpdump's options for that, under tcpdump's names."""

from typing import Annotated, Any

import msgspec
import typer


def _flag(letter: str, help: str) -> Any:  # noqa: A002  # typer's word
    return typer.Option(f"-{letter}", help=help, show_default=False)


def _level(letter: str, help: str) -> Any:  # noqa: A002
    return typer.Option(f"-{letter}", help=help, count=True, show_default=False)


_TIMES = "-t: no times; -tt: seconds since 1970; -ttt: since the last line; -tttt: with date; -ttttt: since the first."
_HEX = "Print the data in hexadecimal; -xx: the link-level header, too."
_HEX_AND_TEXT = "Print the data in hexadecimal and ASCII; -XX: the link-level header, too."


class Style(msgspec.Struct, frozen=True):
    """Options of tcpdump that say how it prints packets."""

    numeric: Annotated[int, _level("n", "Print numbers, not names of hosts and ports.")] = 0
    link: Annotated[bool, _flag("e", "Print the link-level header.")] = False
    verbose: Annotated[int, _level("v", "Print more of each packet; -vv and -vvv print still more.")] = 0
    quick: Annotated[bool, _flag("q", "Print less of each packet.")] = False
    times: Annotated[int, _level("t", _TIMES)] = 0
    hexadecimal: Annotated[int, _level("x", _HEX)] = 0
    hex_and_text: Annotated[int, _level("X", _HEX_AND_TEXT)] = 0
    text: Annotated[int, _level("A", "Print the data, in ASCII.")] = 0
    numbered: Annotated[bool, typer.Option("-#", "--number", help="Print the packet's number.")] = False
    absolute: Annotated[bool, _flag("S", "Print TCP sequence numbers as they are in the packet.")] = False
    without_domain: Annotated[bool, _flag("N", "Print host names without their domain.")] = False
    unverified: Annotated[bool, _flag("K", "Don't verify checksums.")] = False
    line_buffered: Annotated[bool, _flag("l", "Write each line at once; this is always so.")] = False
    nanoseconds: Annotated[bool, typer.Option("--nano", help="Print times in nanoseconds.")] = False
    kind: Annotated[
        str | None, typer.Option("-T", metavar="TYPE", help="Take packets for this type: rtp, vxlan and more.")
    ] = None

    def words(self) -> list[str]:
        """These options as tcpdump's arguments."""
        words = [f"-{letter * count}" for letter, count in self._letters().items() if count]
        words += ["--number"] * self.numbered + ["--nano"] * self.nanoseconds
        return words if self.kind is None else [*words, f"-T{self.kind}"]

    def only_tcpdumps(self) -> list[str]:
        """Those of the options that only tcpdump can follow."""
        letters = self._letters()
        found = [f"-{letter * letters[letter]}" for letter in "evqxXANK" if letters[letter]]
        return found if self.kind is None else [*found, "-T"]

    def _letters(self) -> dict[str, int]:
        return {
            "n": self.numeric,
            "e": int(self.link),
            "v": self.verbose,
            "q": int(self.quick),
            "t": self.times,
            "x": self.hexadecimal,
            "X": self.hex_and_text,
            "A": self.text,
            "S": int(self.absolute),
            "N": int(self.without_domain),
            "K": int(self.unverified),
        }
