"""Compiles Cython modules of the tests against zbuf's .pxd files, as any other project would."""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import zbuf

_ROOT = Path(zbuf.__file__).parent.parent


def build_module(source: Path, directory: Path) -> Any:
    """Compile a .pyx file into `directory`, and import it."""
    c, binary = directory / f"{source.stem}.c", directory / f"{source.stem}.so"
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(_ROOT), "-o", str(c), str(source)]
    subprocess.run(cython, check=True)
    include = [f"-I{_ROOT}", f"-I{sysconfig.get_path('include')}"]
    subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", *include, "-o", str(binary), str(c)], check=True)
    spec = importlib.util.spec_from_file_location(source.stem, binary)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
