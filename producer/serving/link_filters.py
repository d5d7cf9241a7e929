"""A filter expression for every link type that it meets: libpcap compiles another program for each."""

from collections.abc import Sequence

from zbuf.producer.filters import REFUSE_ALL, compile_filter
from zbuf.shared.errors import FilterError
from zbuf.shared.memory.pcapng import Interface


class LinkFilters:
    """One pcap-filter(7) expression, and the programs that it became so far.

    Where it does not compile for a link type, packets of that link type are refused.

    Args:
        expression: empty to accept everything.
        interfaces: those that there are already; the programs for them are compiled at once.

    Raises:
        FilterError: it compiles for none of their link types; the message is about the first.
    """

    def __init__(self, expression: str, interfaces: Sequence[Interface]) -> None:
        self.expression = expression
        self._programs: dict[int, bytes] = {}
        self._refusals: dict[int, FilterError] = {}
        self.programs(interfaces)
        if self._programs and len(self._refusals) == len(self._programs):
            raise self._refusals[interfaces[0].linktype]

    def program(self, linktype: int) -> bytes:
        """The program for packets of a link type."""
        if linktype not in self._programs:
            try:
                self._programs[linktype] = compile_filter(self.expression, linktype) if self.expression else b""
            except FilterError as error:
                self._programs[linktype] = REFUSE_ALL
                self._refusals[linktype] = error
        return self._programs[linktype]

    def programs(self, interfaces: Sequence[Interface]) -> bytes | list[bytes]:
        """As Descriptor.set_filter() takes them: one for all, where they are the same, or one for each interface."""
        each = [self.program(interface.linktype) for interface in interfaces]
        return each if len(set(each)) > 1 else each[0] if each else b""

    def warnings(self, interfaces: Sequence[Interface]) -> list[str]:
        """A line for each link type that it can't be used for."""
        return [
            f"no packets of {', '.join(one.name for one in interfaces if one.linktype == linktype)} "
            f"(link type {linktype}): {error}"
            for linktype, error in self._refusals.items()
            if any(one.linktype == linktype for one in interfaces)
        ]
