"""The native modules (every .pyx file below src/zbuf) and the manual pages; pyproject.toml has everything else."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

PACKAGE = Path("src/zbuf")
LIBRARIES = {
    "zbuf.producer.filters": ["pcap"],
    "zbuf.producer.ring.descriptor": ["pcap"],
    "zbuf.producer.sources.files.libpcap_file": ["pcap"],
    "zbuf.producer.sources.live.libpcap_devices": ["pcap"],
    "zbuf.producer.sources.live.libpcap_interface": ["pcap"],
    "zbuf.producer.sources.live.libpcap_live": ["pcap"],
    "zbuf.producer.sources.pace": ["m"],
}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}
HEADERS = {
    "stdlib.h": "libc's headers (Debian: apt-get install libc6-dev; Fedora: dnf install glibc-devel)",
    "Python.h": "Python's headers (Debian: apt-get install python3-dev; Fedora: dnf install python3-devel)",
    "pcap/pcap.h": "libpcap's headers (Debian: apt-get install libpcap-dev; Fedora: dnf install libpcap-devel)",
}


def find(*endings: str) -> Iterator[str]:
    """Files below src/zbuf, whose packages are links to top-level folders in a checkout."""
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        yield from (str(Path(folder) / file) for file in sorted(files) if file.endswith(endings))


def extension(path: str) -> Extension:
    """The module of a .pyx file."""
    name = ".".join(Path(path).with_suffix("").parts[1:])
    return Extension(
        name,
        [path],
        include_dirs=["src"],
        libraries=LIBRARIES.get(name, []),
        depends=[*find(".h", ".pxd"), "setup.py"],
        extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )


def check_machine() -> None:
    """End with one line that says what to install, where something that the build needs is missing."""
    if not (PACKAGE / "shared" / "zbuf.h").exists():
        sys.exit(f"zbuf can't be built: the links in {PACKAGE} lead nowhere; clone with git -c core.symlinks=true")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    flags += [f"-I{sysconfig.get_path(path)}" for path in ("include", "platinclude")]
    for header, package in HEADERS.items():
        command = [*compiler, *flags, "-fsyntax-only", "-xc", "-"]
        try:
            subprocess.run(command, input=f"#include <{header}>\n", text=True, stderr=subprocess.DEVNULL, check=True)
        except OSError:
            sys.exit(f"zbuf needs a C compiler (Debian: apt-get install gcc): {compiler[0]} is missing")
        except subprocess.CalledProcessError:
            sys.exit(f"zbuf needs {package}: <{header}> is missing")


class Build(build):
    """Build everything anew but the native modules: an earlier build may have left a module that has since moved."""

    sub_commands = [*build.sub_commands, ("build_man", None)]  # noqa: RUF012  # so the base class declares it

    def run(self) -> None:
        """Check, clear and build."""
        check_machine()
        modules = {Path(path).resolve() for path in self.get_finalized_command("build_ext").get_outputs()}
        for path in Path(self.build_lib).rglob("*"):
            if path.is_file() and path.resolve() not in modules:
                path.unlink()
        super().run()


class BuildNative(build_ext):
    """Compile the .pyx files: to C all at once, in as many processes as there are processors, then that C."""

    def run(self) -> None:
        """Only here is Cython run: a source distribution and metadata are made without it."""
        from Cython.Build import cythonize

        check_machine()
        translated = cythonize(
            self.extensions,
            build_dir="build",  # generated C stays out of the sources
            include_path=["src"],
            compiler_directives=DIRECTIVES,
            nthreads=os.cpu_count() or 1,
        )
        for module, in_c in zip(self.extensions, translated, strict=True):
            module.sources = in_c.sources
        if self.editable_mode:
            self.reuse_modules()
        super().run()

    def reuse_modules(self) -> None:
        """An editable install builds in an empty folder: begin with what the last one left in the sources."""
        for module in self.extensions:
            file = self.get_ext_filename(module.name)
            if (last := PACKAGE.parent / file).exists():
                new = Path(self.build_lib) / file
                new.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(last, new)


class BuildMan(Command):
    """Make the manual pages from the commands just built; see docs/man.py."""

    editable_mode = False  # setuptools sets it: an editable install has no manual pages

    def initialize_options(self) -> None:
        """It has none."""

    def finalize_options(self) -> None:
        """It has none."""

    def run(self) -> None:
        """Run docs/man.py on the package as built."""
        if self.editable_mode:
            return
        self.run_command("egg_info")  # the commands ask for their version
        built = self.get_finalized_command("build")
        pages = Path(built.build_base) / "man"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([built.build_lib, "src", *sys.path])}
        command = [sys.executable, "docs/man.py", pages]
        made = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        if made.returncode != 0:
            why = made.stderr.strip().rpartition("\n")[2]
            sys.exit(
                f"zbuf's manual pages are made by running it: install what it depends on, or build isolated ({why})"
            )
        self.distribution.data_files = [("share/man/man1", sorted(str(page) for page in pages.glob("*.1")))]


if __name__ == "__main__":
    setup(
        ext_modules=[extension(path) for path in find(".pyx")],
        cmdclass={"build": Build, "build_ext": BuildNative, "build_man": BuildMan},
        options={"build_ext": {"parallel": os.cpu_count()}},
    )
