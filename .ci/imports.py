"""Check which module imports which, by the contracts in pyproject.toml ([tool.importlinter]): make lint.

import-linter reads Python alone.  So it is given a copy of the package in which each native module is a Python file of
the imports that its .pyx and .pxd files have, a cimport as an import.

What no contract sees is a name in a string: a package that starts a module of another by its name depends on it all
the same.  That is looked for in the text.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = {".pyx", ".pxd"}
SOURCES = NATIVE | {".py", ".pyi", ".h"}
FOREIGN = {"producer": ["consumer"], "consumer": ["producer"], "shared": ["consumer", "producer"]}
STARTS_COMMANDS = Path("shared/cli/process.py")
"""The one place that may name what lies in both."""

_IMPORT = re.compile(r"^ *from +[\w.]+ +c?import +(?:\([^)]*\)|.+)|^ *c?import +.+", re.MULTILINE)
_VERSION = re.compile(r"^( *)from zbuf import __version__$", re.MULTILINE)


def sources() -> Iterator[Path]:
    """Every file of the package's three rooms, relative to the project."""
    for room in FOREIGN:
        yield from (path.relative_to(ROOT) for path in sorted((ROOT / room).rglob("*")) if path.suffix in SOURCES)


def imports_of(text: str) -> str:
    """The imports of a Cython file, as Python; a C header (cdef extern from) is not an import."""
    statements = (match[0].strip() for match in _IMPORT.finditer(text))
    return "".join(re.sub(r"\bcimport\b", "import", statement) + "\n" for statement in statements)


def copy_package(to: Path) -> None:
    """Write the package's modules below a folder, with native ones as Python."""
    package = to / "zbuf"
    package.mkdir()
    for face in (ROOT / "src" / "zbuf").glob("*.py"):
        (package / face.name).write_text(face.read_text())
    for path in sources():
        if path.suffix in NATIVE | {".py"}:
            copied = (package / path).with_suffix(".py")
            copied.parent.mkdir(parents=True, exist_ok=True)
            text = (ROOT / path).read_text()
            with copied.open("a") as file:
                # Rooms may ask the face of the package for its version, and for nothing else.
                file.write(imports_of(text) if path.suffix in NATIVE else _VERSION.sub(r"\1pass", text))


def foreign_names() -> Iterator[str]:
    """Each line that names a module which its package may not know."""
    for path in sources():
        if path == STARTS_COMMANDS:
            continue
        names = re.compile(rf"\bzbuf[./](?:{'|'.join(FOREIGN[path.parts[0]])})\b")
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if found := names.search(line):
                yield f"{path}:{number}: {found[0]} is named here: leave that to {STARTS_COMMANDS}"


def main() -> int:
    """Print what breaks a rule; 1 where anything does."""
    with tempfile.TemporaryDirectory() as folder:
        copy_package(Path(folder))
        linter = Path(sys.executable).parent / "lint-imports"
        command = [linter, "--no-cache", ROOT / "pyproject.toml"]
        broken = subprocess.run(command, cwd=folder, env={"PYTHONPATH": folder, "LANG": "C.UTF-8"}).returncode
    named = list(foreign_names())
    sys.stdout.writelines(f"{line}\n" for line in named)
    return 1 if broken or named else 0


if __name__ == "__main__":
    sys.exit(main())
