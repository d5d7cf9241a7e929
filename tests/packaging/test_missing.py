"""Where something is missing that a build needs, one line says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import ROOT

_PIP = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index"]


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """A folder of headers that the compiler takes for the real ones, and that it can't read."""
    for header in ("stdlib.h", "Python.h", "pcap/pcap.h"):
        path = tmp_path / Path(header).name / header
        path.parent.mkdir(parents=True)
        path.write_text("#error hidden\n")
    return tmp_path


def install(clone: Path, target: Path, **environment: str) -> list[str]:
    """The lines that `pip install .` prints with zbuf's name for what is missing; it fails."""
    command: list[str | Path] = [*_PIP, "--target", target, clone]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    return [line.strip() for line in ended.stderr.splitlines() if "zbuf needs" in line]


@pytest.mark.parametrize(
    ("header", "package"),
    [("stdlib.h", "libc6-dev"), ("Python.h", "python3-dev"), ("pcap/pcap.h", "libpcap-dev")],
)
def test_pip_says_which_headers_to_install(clone: Path, without: Path, header: str, package: str) -> None:
    (line,) = install(clone, without / "target", CPPFLAGS=f"-I{without / Path(header).name}")
    assert line.startswith("zbuf needs ")
    assert package in line
    assert f"<{header}> is missing" in line


def test_pip_says_to_install_a_compiler(clone: Path, tmp_path: Path) -> None:
    (line,) = install(clone, tmp_path / "target", PATH=str(tmp_path), CC="gcc")
    assert line == "zbuf needs a C compiler (Debian: apt-get install gcc): gcc is missing"


def make(*needs: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What make runs first, on a machine whose commands are those of a folder."""
    environment = os.environ | {"PATH": str(path), "PYTHON": sys.executable} | environment
    return subprocess.run(
        ["/bin/sh", ROOT / ".ci" / "require", *needs], env=environment, capture_output=True, text=True
    )


def test_make_says_to_install_a_compiler(tmp_path: Path) -> None:
    refused = make("libpcap-dev", path=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "zbuf needs a C compiler: install gcc, then run make again\n"


def test_make_says_which_package_to_install_where_it_can_t_itself(tmp_path: Path) -> None:
    (tmp_path / "cc").symlink_to("/bin/false")
    (tmp_path / "id").symlink_to("/usr/bin/id")
    refused = make("libpcap-dev", path=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "zbuf needs what Debian calls libpcap-dev: install that, then run make again\n"


def test_make_says_that_it_needs_a_network(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    pip = tmp_path / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip "$@"\n')
    pip.chmod(0o755)
    unreachable = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "0"}
    environment = os.environ | unreachable | {"VENV": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    command: list[str | Path] = [ROOT / ".ci" / "pip", "install", "--target", tmp_path, "a-package-that-is-not-there"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("zbuf needs packages from PyPI, which is out of reach: ")
    assert refused.stderr.count("\n") == 1
