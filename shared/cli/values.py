"""Options' values without pydantic, which typer imports to convert the first value of whatever type: 0.1 s.

Most values need no conversion, or have a parser of their own. typer converts the rest, and tells what is wrong.
"""

from typing import Any

_ITSELF = (str, int, float, bool)
_UNKNOWN = object()


class ConvertsSimply:
    """A command, or a group of commands, whose parameters take values that need no conversion as they are."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, ready to take values."""
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # typer's
        for parameter in found:
            vars(parameter)["_runtime_param"] = _Simple(parameter)
        return found


class _Simple:
    """Stands where typer keeps what converts a parameter's values, once it has made that."""

    def __init__(self, parameter: Any) -> None:
        self._descriptor = parameter.type_descriptor

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of the parameter's type; raises a usage error if there is none."""
        if (found := self._simple(value, several=param.multiple or param.nargs == -1)) is not _UNKNOWN:
            return found
        from typer._coercion import build_runtime_param

        return build_runtime_param(self._descriptor).coerce(value, param=param, ctx=ctx)

    def _simple(self, value: Any, *, several: bool) -> Any:
        kind, parser = self._descriptor.annotation, self._descriptor.parameter_info.parser
        if value is None:
            return () if several else None
        if parser is not None:
            return _UNKNOWN if several else parser(value)
        if several:
            is_text = kind == list[str] and all(type(one) is str for one in value) and type(value) is not str
            return list(value) if is_text else _UNKNOWN
        if kind in _ITSELF:
            return value if type(value) is kind else _UNKNOWN
        return next((one for one in self._descriptor.choices or () if one == value), _UNKNOWN)
