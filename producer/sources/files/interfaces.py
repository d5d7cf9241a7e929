"""The interfaces that the files of a source have, numbered in the order in which they appear."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from zbuf.shared.memory.pcapng import Interface, interface_of

_IF_FCSLEN = 13


class SourceInterfaces:
    """All interfaces of a source: those of all sections of all its files.

    An interface keeps its number however often its file is read.
    """

    def __init__(self) -> None:
        self.found: list[Interface] = []
        self.files: list[int] = []
        """Which file each is of."""
        self._numbers: dict[tuple[int, int], int] = {}

    def add(self, file: int, index: int, interface: Interface) -> int:
        """The number of an interface.

        Args:
            file: which of the source's files it is in.
            index: which interface of the file it is, all sections counted.
            interface: what the file says of it.
        """
        number = self._numbers.setdefault((file, index), len(self.found))
        if number == len(self.found):
            self.found.append(interface)
            self.files.append(file)
        return number

    def limit(self, file: int, snaplen: int) -> None:
        """Say that no packet of the first interface of a file is longer than this, in bytes."""
        number = self._numbers[file, 0]
        self.found[number] = replace(self.found[number], snaplen=snaplen)


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

    def add(self, index: int, *, linktype: int, block: bytes, fcs_bits: int | None) -> int:
        """The number of an interface that has appeared; see Savefile.

        That of a pcap file has no limit at first: its packets may be longer than the snapshot length in its header, and
        readers of pcapng refuse a packet which is longer than its interface allows. See limit().
        """
        name = PurePath(self._path).name or self._path
        if block:
            interface = interface_of(block, default_name=name)
        else:
            interface = Interface(name, linktype, options=tuple(_fcs_option(fcs_bits)))
        return self._source.add(self._file, index, interface)

    def limit(self, snaplen: int) -> None:
        """Give the interface of a pcap file its snapshot length, once all packets have been seen to keep to it."""
        self._source.limit(self._file, snaplen)


def _fcs_option(fcs_bits: int | None) -> Iterator[tuple[int, bytes]]:
    """How long the frame check sequence behind each packet is, which pcap has in its link type."""
    if fcs_bits is not None:
        yield _IF_FCSLEN, struct.pack("<B", min(fcs_bits, 255))
