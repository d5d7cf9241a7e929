"""How a reader is to be: the options of connect(), declared and checked here.

What the producer needs to know is declared in control.Choices; this adds what concerns the reader alone.
"""

import functools
import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_type_hints

import msgspec

from zbuf.shared import control
from zbuf.shared.arguments import accepted
from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.layout import MAX_CAPLEN
from zbuf.shared.memory.sizes import buffer_bytes
from zbuf.shared.names import check_name

Wait = Literal["sleep", "spin"]

DEFAULT_SPIN_US = 50
SPIN_US_MAX = 1_000_000

_P = ParamSpec("_P")
_Arguments = TypeVar("_Arguments")
_Result = TypeVar("_Result")


class Options(control.Choices, frozen=True, kw_only=True):
    """The keywords that connect() and connect_async() share; connect() says what each of them does.

    Raises:
        TypeError: a value is of the wrong type; the message names the keyword.
    """

    file: str | os.PathLike[str] | None = None
    filter: str | None = None  # type: ignore[assignment]  # the producer is asked for "" then
    buffer_size: int | str | None = None
    join: str | None = None
    wait: Wait = "sleep"
    spin_us: Annotated[int, msgspec.Meta(ge=0, le=SPIN_US_MAX)] = DEFAULT_SPIN_US
    wait_s: float = 0
    run_dir: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            msgspec.structs.force_setattr(self, name, accepted(name, getattr(self, name), hint))

    @property
    def spin_ns(self) -> int:
        """How long to look before sleeping, in nanoseconds; negative to never sleep."""
        return -1 if self.wait == "spin" else self.spin_us * 1000

    def request(self) -> control.Connect:
        """What to ask the producer for.

        Raises:
            ValueRefused: an option is out of its range.
        """
        self.check()
        choices = {name: getattr(self, name) for name in control.Choices.__struct_fields__}
        choices["filter"] = self.filter or ""
        size = None if self.buffer_size is None else buffer_bytes(self.buffer_size)
        settings = control.Settings(**choices, buffer_bytes=size)
        as_it_is = self.join is not None and settings == control.Settings()  # the group's settings, whatever they are
        return control.Connect(join=self.join, settings=None if as_it_is else settings)

    def check(self) -> None:
        """Raise ValueRefused, naming the value, where an option is out of its range."""
        if self.wait not in ("sleep", "spin"):
            raise ValueRefused(f"wait={self.wait!r}: it must be 'sleep' or 'spin'")
        _check_range(f"spin_us={self.spin_us}", self.spin_us, 0, SPIN_US_MAX)
        if self.buffer_size is not None:
            buffer_bytes(self.buffer_size)
        if not self.wait_s >= 0:
            raise ValueRefused(f"wait_s={self.wait_s}: give seconds, 0 or more; math.inf for as long as it takes")
        _check_range(f"snaplen {self.snaplen}", self.snaplen, 1, MAX_CAPLEN)
        _check_range(f"read timeout {self.timeout_ms} ms", self.timeout_ms, 0, control.TIMEOUT_MS_MAX)
        check_filter(self.filter or "")
        if self.direction not in ("in", "out", "inout"):
            raise ValueRefused(f"direction {self.direction!r}: it must be in, out or inout")
        if self.join is not None:
            check_name(self.join, "group name")


def check_filter(expression: str) -> None:
    """Raise ValueRefused where no producer could even read this filter; whether it compiles, the producer says."""
    if "\0" in expression:
        raise ValueRefused(f"filter {expression!r}: it contains a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in expression):
        raise ValueRefused(f"filter {expression!r}: it contains bytes that are not valid text")
    if len(expression) > control.FILTER_LENGTH_MAX:
        raise ValueRefused(f"filter of {len(expression)} characters: use at most {control.FILTER_LENGTH_MAX}")


def _check_range(what: str, value: float, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueRefused(f"{what}: it must be from {least} to {most}")


@functools.cache
def _hints(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field."""
    return get_type_hints(struct)


def takes(arguments: Callable[_P, _Arguments]) -> Callable[[Callable[[_Arguments], _Result]], Callable[_P, _Result]]:
    """Give a function the parameters of a struct's constructor, for type checkers, editors and help() alike."""

    def decorate(function: Callable[[_Arguments], _Result]) -> Callable[_P, _Result]:
        @functools.wraps(function)
        def call(*args: _P.args, **keywords: _P.kwargs) -> _Result:
            return function(arguments(*args, **keywords))

        shown: Any = call
        shown.__signature__ = _signature(arguments, inspect.signature(function).return_annotation)
        return call

    return decorate


def _signature(arguments: Callable[..., object], result: object) -> inspect.Signature:
    """The signature of a struct's constructor, its types without their limits."""
    types = get_type_hints(arguments)
    signature = inspect.signature(arguments)
    parameters = [one.replace(annotation=types[one.name]) for one in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=result)
