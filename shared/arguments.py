"""The arguments of public functions: a wrong type is a TypeError that names the argument, at the call.

What a function accepts stands in its annotations, and nowhere else: they are read at its first call.
"""

import collections.abc
import functools
import inspect
import operator
import os
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

_WORDS = {
    int: "an int",
    float: "a number",
    str: "a str",
    bytes: "bytes",
    bool: "True or False",
    type(None): "None",
    os.PathLike: "a path",
}
_UNIONS = (typing.Union, types.UnionType)


def checked(function: Callable[_P, _Result]) -> Callable[_P, _Result]:
    """Make a function, or the ``__init__`` of a class, raise TypeError for an argument of the wrong type.

    NumPy's integers and floats are as good as Python's, and reach the function as Python's. True and False are no
    numbers. An annotation that says more than the type, such as the values of a Literal, is checked for the type only.
    """
    signature, hints = inspect.signature(function), dict[str, Any]()

    @functools.wraps(function)
    def call(*args: _P.args, **keywords: _P.kwargs) -> _Result:
        if not hints:
            hints.update(_hints_of(function, signature))
        given = signature.bind(*args, **keywords)
        for name, value in given.arguments.items():
            if name in hints:
                given.arguments[name] = accepted(name, value, hints[name])
        return function(*given.args, **given.kwargs)

    return call


def _hints_of(function: Callable[..., Any], signature: inspect.Signature) -> Mapping[str, Any]:
    """The types of the plain parameters; `self` and those that gather others have none."""
    gathering = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hints = typing.get_type_hints(function)
    return {one.name: hints.get(one.name, Any) for one in signature.parameters.values() if one.kind not in gathering}


def check_fields(one: Any) -> None:
    """Raise TypeError where a field of a frozen object is of another type than its annotation says.

    For the ``__post_init__`` of a dataclass or a struct.
    """
    kind: Any = type(one)
    for name, hint in _fields_of(kind).items():
        accepted(name, getattr(one, name), hint)


@functools.cache
def _fields_of(kind: Any) -> Mapping[str, Any]:
    return {name: hint for name, hint in typing.get_type_hints(kind).items() if name in kind.__match_args__}


def accepted(name: str, value: Any, hint: Any) -> Any:
    """The value of an argument; NumPy's numbers become Python's.

    Args:
        name: the argument's.
        value: what was given.
        hint: the argument's type, as annotations write it.

    Raises:
        TypeError: it is of another type.
    """
    if not fits(value, hint):
        raise TypeError(f"{name} must be {words(hint)}, not {type(value).__name__}: {value!r:.60}")
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return operator.index(value) if _is_integer(value) and int in _members(hint) else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that an annotation asks for, as far as that can be told without looking inside."""
    return any(_fits_one(value, one) for one in _members(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is int:
        return _is_integer(value)
    if hint is float:
        return _is_number(value)
    if typing.get_origin(hint) is typing.Literal:
        return isinstance(value, tuple({type(one) for one in typing.get_args(hint)}))
    kind = typing.get_origin(hint) or hint
    if isinstance(value, (str, bytes)) and kind in (collections.abc.Iterable, collections.abc.Sequence):
        return False  # several, and this is one
    if not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True  # nothing that can be told here
    return isinstance(value, kind) and all(fits(one, inner) for inner, one in _elements(value, hint))


def _elements(value: Any, hint: Any) -> list[tuple[Any, Any]]:
    """What a list or tuple of a certain type holds, each with the type that it should have."""
    inner = typing.get_args(hint)
    return [(inner[0], one) for one in value] if len(inner) == 1 and isinstance(value, (list, tuple)) else []


def _is_integer(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_integer(value) or (hasattr(value, "__float__") and hasattr(value, "dtype"))


def _members(hint: Any) -> list[Any]:
    """The types of a union, or the one type; without their annotations."""
    if typing.get_origin(hint) is typing.Annotated:
        return _members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in _UNIONS:
        return [one for each in typing.get_args(hint) for one in _members(each)]
    return [type(None) if hint is None else hint]


def words(hint: Any) -> str:
    """What an annotation asks for, in words: "an int, a str or None"."""
    found = list(dict.fromkeys(map(_words_for, _members(hint))))
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} or {found[-1]}"


def _words_for(hint: Any) -> str:
    kind = typing.get_origin(hint) or hint
    inner = typing.get_args(hint)
    if kind is typing.Literal:
        return " or ".join(map(repr, inner)) if len(inner) < 3 else f"one of {', '.join(map(repr, inner))}"
    if kind in (collections.abc.Iterable, collections.abc.Sequence, list):
        return f"several, each {words(inner[0])}" if inner else "several"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
