"""The C programs of the benchmarks, compiled when they are needed."""

import shutil
import subprocess
from pathlib import Path

from bench.stage import BenchError

_HERE = Path(__file__).parent


def compile_program(name: str, directory: Path, *libraries: str) -> Path:
    """Compile a C file of this folder, with optimization; returns the program's path.

    Raises:
        BenchError: there is no compiler, or a library is missing.
    """
    source, program = _HERE / f"{name}.c", directory / name
    if shutil.which("cc") is None:
        raise BenchError("needs a C compiler: install gcc")
    command = ["cc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(program), str(source), *libraries]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode:
        raise BenchError(f"does not compile: {compiled.stderr.partition(chr(10))[0]}")
    return program
