"""A filter expression for every link type that it meets: libpcap compiles another program for each."""

from collections.abc import Awaitable, Callable, Sequence

from zbuf.producer.compiling import TooLong
from zbuf.producer.filters import REFUSE_ALL, compile_filter
from zbuf.shared.errors import FilterError
from zbuf.shared.memory.pcapng import Interface

INSTRUCTION_BYTES = 8
"""Of struct bpf_insn."""

Compile = Callable[[str, int], bytes]
"""Compiles an expression for a link type, or raises FilterError."""


class LinkFilters:
    """One pcap-filter(7) expression, and the programs that it became so far.

    Where it does not compile for a link type, packets of that link type are refused.

    Args:
        expression: empty to accept everything.
        interfaces: those that there are already; the programs for them are compiled at once.
        compile_one: compiles for the link types that it meets.

    Raises:
        FilterError: it compiles for none of their link types; the message is about the first.
    """

    def __init__(self, expression: str, interfaces: Sequence[Interface], compile_one: Compile = compile_filter) -> None:
        self.expression = expression
        self._compile = compile_one
        self._programs: dict[int, bytes] = {}
        self._refusals: dict[int, FilterError] = {}
        self.programs(interfaces)
        if self._programs and len(self._refusals) == len(self._programs):
            raise self._refusals[interfaces[0].linktype]

    @classmethod
    async def compiled(
        cls,
        expression: str,
        interfaces: Sequence[Interface],
        compile_one: Callable[[str, int], Awaitable[bytes]],
        compile_later: Compile,
    ) -> "LinkFilters":
        """The same, where compiling for the interfaces that there are takes time.

        Args:
            expression: empty to accept everything.
            interfaces: those that there are.
            compile_one: compiles for their link types.
            compile_later: compiles for the link types of interfaces that appear later, while the capture waits.

        Raises:
            FilterError: it compiles for none of their link types, or is TooLong.
        """
        outcomes: dict[int, bytes | FilterError] = {}
        for linktype in {one.linktype for one in interfaces if expression}:
            try:
                outcomes[linktype] = await compile_one(expression, linktype)
            except TooLong:
                raise
            except FilterError as error:
                outcomes[linktype] = error

        def known(expression: str, linktype: int) -> bytes:
            outcome = outcomes.pop(linktype, None)
            if isinstance(outcome, FilterError):
                raise outcome
            return compile_later(expression, linktype) if outcome is None else outcome

        return cls(expression, interfaces, known)

    @property
    def instructions(self) -> int:
        """How many instructions it takes for a packet at most, which is the length of its longest program."""
        return max((len(program) // INSTRUCTION_BYTES for program in self._programs.values()), default=0)

    def program(self, linktype: int) -> bytes:
        """The program for packets of a link type."""
        if linktype not in self._programs:
            try:
                self._programs[linktype] = self._compile(self.expression, linktype) if self.expression else b""
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
