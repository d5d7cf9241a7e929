"""A check of the reference: every public name is in it.

autodoc leaves out what has no docstring, so a public name without one fails the check, too.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

MODULES = ("zbuf", "zbuf.consumer", "zbuf.producer", "zbuf.errors", "zbuf.shared.errors")
log = logging.getLogger(__name__)


def check(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name that the reference lacks, and of each public member of a class."""
    documented = {name: entry.node_id for name, entry in env.domains.python_domain.objects.items()}
    for name, value in public_names():
        place = documented.get(name) or documented.get(canonical(value)) or elsewhere(name, value, documented)
        missing = [name] if place is None else [one for one in members(value, place) if one not in documented]
        for one in missing:
            log.warning("%s is public, and not in the reference: write its docstring", one)


def public_names() -> Iterator[tuple[str, Any]]:
    """The names of each module's __all__; if a module has none, its own classes are public."""
    for module in filter(importlib.util.find_spec, MODULES):
        found = importlib.import_module(module)
        own = [name for name, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module]
        for name in getattr(found, "__all__", own):
            if not name.startswith("_"):
                yield f"{module}.{name}", getattr(found, name)


def elsewhere(name: str, value: Any, documented: dict[str, str]) -> str | None:
    """The place of a name that the reference has as that of another module, from which this one takes it."""
    short = name.rpartition(".")[2]
    for module in MODULES:
        if f"{module}.{short}" in documented and getattr(importlib.import_module(module), short, None) is value:
            return documented[f"{module}.{short}"]
    return None


def canonical(value: Any) -> str:
    """The full name under which a class or function is defined; empty for anything else."""
    return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else ""


def members(value: Any, place: str) -> Iterator[str]:
    """The public members of a class that zbuf's own code defines."""
    for owner in inspect.getmro(value) if inspect.isclass(value) else ():
        if owner.__module__.startswith("zbuf."):
            for member, code in vars(owner).items():
                if not member.startswith("_") and (inspect.isroutine(code) or inspect.isdatadescriptor(code)):
                    yield f"{place}.{member}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
