"""The native modules: every .pyx file below src/zbuf.  Everything else about the package is in pyproject.toml."""

import os
from collections.abc import Iterator
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SOURCES = Path("src/zbuf")
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


def find(*endings: str) -> Iterator[str]:
    """Files below src/zbuf, whose packages are links."""
    for folder, _, files in os.walk(SOURCES, followlinks=True):
        yield from (str(Path(folder) / file) for file in sorted(files) if file.endswith(endings))


def extension(path: str) -> Extension:
    """The module of a .pyx file."""
    name = ".".join(Path(path).with_suffix("").parts[1:])
    return Extension(
        name,
        [path],
        include_dirs=["src"],
        libraries=LIBRARIES.get(name, []),
        depends=list(find(".h", ".pxd")),
        extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )


setup(
    ext_modules=cythonize(
        [extension(path) for path in find(".pyx")],
        build_dir="build",  # generated C stays out of the sources
        include_path=["src"],
        compiler_directives=DIRECTIVES,
        nthreads=os.cpu_count() or 1,
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
