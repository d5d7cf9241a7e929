"""Docstrings as this project writes them, for autodoc: Google's sections, and signatures of native code from the stubs.

Sphinx's own extension for such docstrings, napoleon, takes "Seconds: how long" below an attribute for a type and a
description. Here an attribute's docstring is plain text, as everywhere else; so napoleon's parser is used without its
extension.
"""

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from sphinx.application import Sphinx
from sphinx.ext.napoleon.docstring import GoogleDocstring

_PREFIX = re.compile(r"(?<![`\w])([A-Z]+_)(?![`\w])")  # LINKTYPE_, which reStructuredText takes for a link


def convert(_app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of a docstring, in place."""
    kind: Literal["class", "function"] = "class" if what in ("class", "exception") else "function"
    lines[:] = [_PREFIX.sub(r"``\1``", line) for line in lines]
    lines[:] = GoogleDocstring(lines, what=kind, name=name, obj=described, options=options).lines()


def sign(
    _app: Sphinx, what: str, _name: str, described: Any, _options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """The signature to show: a native function's from its stub, and none for a class that its users do not make."""
    if what == "class" and signature and "Args:" not in (inspect.getdoc(described) or ""):
        return "", None
    if inspect.isfunction(described) or inspect.isclass(described):
        return signature, returned
    module = getattr(described, "__module__", None)
    return signatures(module).get(getattr(described, "__qualname__", ""), (signature, returned))


@functools.cache
def signatures(module: str | None) -> dict[str, tuple[str, str | None]]:
    """The functions in a module's stub, by qualified name: the arguments in brackets, and what is returned."""
    file = Path(getattr(sys.modules.get(module or ""), "__file__", None) or "")
    stub = file.with_name(file.name.split(".")[0] + ".pyi") if file.name else file
    return dict(_functions(ast.parse(stub.read_text()).body)) if stub.is_file() else {}


def _functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, tuple[str, str | None]]]:
    for one in body:
        if isinstance(one, ast.ClassDef):
            yield from _functions(one.body, f"{one.name}.")
        elif isinstance(one, ast.FunctionDef):
            one.args.args = [argument for argument in one.args.args if argument.arg != "self"]
            yield prefix + one.name, (f"({ast.unparse(one.args)})", ast.unparse(one.returns) if one.returns else None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-process-signature", sign)
    return {"parallel_read_safe": True}
