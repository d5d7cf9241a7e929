"""The native modules. Everything else about the package is in pyproject.toml.

The table of extension modules that pyproject.toml offers would leave generated C files beside the sources;
cythonize() puts them into build/.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

ABI = ["shared/zbuf.h", "shared/abi.pxi", "shared/spin.pxi"]
PACKETS = ["producer/packets.pxi", "producer/pcap.pxi", "producer/times.pxi"]


def extension(folder: str, module: str, depends: list[str], libraries: list[str]) -> Extension:
    return Extension(
        f"zbuf.{folder}.{module}",
        [f"{folder}/{module}.pyx"],
        include_dirs=["shared", "producer"],
        libraries=libraries,
        depends=depends,
        extra_compile_args=["-O3", "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )


setup(
    ext_modules=cythonize(
        [
            extension("shared", "layout", ABI, []),
            extension("producer", "descriptor", ABI + PACKETS, ["pcap"]),
            extension("producer", "libpcap", ABI + PACKETS, ["pcap"]),
            extension("producer", "live", ABI + PACKETS + ["producer/ring.h"], ["pcap"]),
            extension("producer", "merge", ABI + PACKETS, []),
            extension("producer", "pacing", ABI + PACKETS, ["m"]),
            extension("producer", "pump", ABI + PACKETS, []),
            extension("producer", "readahead", ABI + PACKETS, []),
            extension("producer", "unique", ABI + PACKETS, []),
            extension("consumer", "reader", ABI, []),
        ],
        build_dir="build",
    )
)
