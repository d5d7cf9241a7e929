"""The interfaces that the files of a source have, numbered in the order in which they appear."""

import struct
from collections.abc import Iterator
from pathlib import PurePath

from zbuf.shared.errors import CaptureFileError
from zbuf.shared.memory.pcapng import Interface, interface_of

_IF_FCSLEN = 13


class SourceInterfaces:
    """All interfaces of a source: those of all sections of all its files.

    An interface keeps its number however often its file is read. Packets of one link type are carried: the first packet
    of all says of which.
    """

    def __init__(self) -> None:
        self.found: list[Interface] = []
        self.linktype: int | None = None
        """That of the first packet; None before."""
        self.files: list[int] = []
        """Which file each is of."""
        self._paths: list[str] = []
        self._numbers: dict[tuple[int, int], int] = {}
        self._told: int | None = None
        self._first = 0

    def seal(self) -> None:
        """Those that there are have been told to others: packets of later ones can't be carried any more."""
        self._told = len(self.found)

    def add(self, file: int, path: str, index: int, interface: Interface) -> int:
        """The number of an interface.

        Args:
            file: which of the source's files it is in.
            path: what that is called.
            index: which interface of the file it is, all sections counted.
            interface: what the file says of it.
        """
        number = self._numbers.setdefault((file, index), len(self.found))
        if number == len(self.found):
            self.found.append(interface)
            self.files.append(file)
            self._paths.append(path)
        return number

    def admit(self, number: int, path: str, packet: int) -> None:
        """A packet is about to be given.

        Args:
            number: its interface's.
            path: what its file is called.
            packet: which one of the file it is, from 1 on.

        Raises:
            CaptureFileError: it can't be carried.
        """
        interface = self.found[number]
        if self.linktype is None:
            self.linktype, self._first = interface.linktype, number
        if interface.linktype != self.linktype:
            first = self._paths[self._first]
            where = f"{first} has {self.linktype}" if path != first else f"packets before it have {self.linktype}"
            raise CaptureFileError(
                f"{path}: packet {packet} has link type {interface.linktype}, where {where}: replay them separately"
            )
        if self._told is not None and number >= self._told:
            raise CaptureFileError(
                f"{path}: packet {packet} is of interface {interface.name!r}, which appears after readers were told of "
                "the interfaces: load the file in place of streaming it, raise --preload-limit"
            )


class FileInterfaces:
    """The interfaces of one file; what a Savefile asks for.

    Args:
        source: those of the whole source.
        file: which of its files this is.
        path: what it is called.
    """

    def __init__(self, source: SourceInterfaces, file: int, path: str) -> None:
        self._source = source
        self._file = file
        self._path = path

    def add(self, index: int, *, linktype: int, snaplen: int, block: bytes, fcs_bits: int | None) -> int:
        """The number of an interface that has appeared; see Savefile."""
        name = PurePath(self._path).name or self._path
        if block:
            interface = interface_of(block, default_name=name)
        else:
            interface = Interface(name, linktype, snaplen=snaplen, options=tuple(_fcs_option(fcs_bits)))
        return self._source.add(self._file, self._path, index, interface)

    def admit(self, number: int, packet: int) -> None:
        """A packet of an interface is next; raises CaptureFileError where it can't be carried."""
        self._source.admit(number, self._path, packet)


def _fcs_option(fcs_bits: int | None) -> Iterator[tuple[int, bytes]]:
    """How long the frame check sequence behind each packet is, which pcap has in its link type."""
    if fcs_bits is not None:
        yield _IF_FCSLEN, struct.pack("<B", min(fcs_bits, 255))
