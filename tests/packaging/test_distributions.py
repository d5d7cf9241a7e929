"""The source distribution, the wheel made from it, and that with libpcap in it, installed where nothing else is."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support.captures import pcap, read_capture, sample
from support.checkout import project_files
from support.commands import Commands
from support.processes import LIMIT_S
from support.project import ROOT

pytestmark = pytest.mark.slow

ROOMS = ("consumer", "producer", "shared")


@dataclass(frozen=True)
class Distributions:
    """What `python -m build` makes: the wheel is built from the source distribution, in an environment of its own."""

    source: Path
    wheel: Path


def run(*command: str | Path, **options: Any) -> str:
    """What a command prints; what went wrong is in the failure."""
    ended: subprocess.CompletedProcess[str] = subprocess.run(command, capture_output=True, text=True, **options)
    assert ended.returncode == 0, f"{command}: {ended.stdout[-4000:]}{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def distributions(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The two distributions of this checkout."""
    folder = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--outdir", folder, clone)
    return Distributions(next(folder.glob("*.tar.gz")), next(folder.glob("*.whl")))


@pytest.fixture(scope="module")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and what it depends on, in it."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin" / "pip", "install", "--quiet", distributions.wheel)
    return environment


@pytest.fixture
def package_files() -> set[str]:
    """Every file of the package in git, as it is called in the package."""
    files = project_files()
    in_rooms = {f"zbuf/{file}" for file in files if file.parts[0] in ROOMS}
    face = {str(file.relative_to("src")) for file in files if file.parts[0] == "src"}
    return in_rooms | face - {f"zbuf/{room}" for room in ROOMS}


def test_the_source_distribution_has_every_file_once_and_no_links(
    distributions: Distributions, package_files: set[str]
) -> None:
    with tarfile.open(distributions.source) as archive:
        members = archive.getmembers()
    top = distributions.source.name.removesuffix(".tar.gz")
    assert all(member.isfile() or member.isdir() for member in members)
    names = [member.name.removeprefix(f"{top}/") for member in members if member.isfile()]
    assert len(names) == len(set(names))
    assert {name.removeprefix("src/") for name in names if name.startswith("src/zbuf/")} == package_files
    assert {"LICENSE", "README.md", "backend.py", "docs/man.py", "pyproject.toml", "setup.py"} <= set(names)


def test_tar_takes_the_source_distribution_for_harmless(distributions: Distributions, tmp_path: Path) -> None:
    with tarfile.open(distributions.source) as archive:
        archive.extractall(tmp_path, filter="data")  # as pip does, by PEP 706


def test_the_wheel_has_every_file_and_a_module_of_each_native_source(
    distributions: Distributions, package_files: set[str]
) -> None:
    names = {name for name in zipfile.ZipFile(distributions.wheel).namelist() if name.startswith("zbuf/")}
    modules = {name for name in names if name.endswith(".so")}
    assert names - modules == package_files
    native = {name.removesuffix(".pyx") for name in package_files if name.endswith(".pyx")}
    assert {module.partition(".")[0] for module in modules} == native


def test_the_wheel_installs_a_manual_page_of_each_command(installed: Path) -> None:
    pages = {page.name for page in (installed / "share" / "man" / "man1").iterdir()}
    assert {"zbuf.1", "zbufd.1", "zbuf-dump.1", "zbufd-replay.1"} <= pages


def replay_to_dump(environment: Path, folder: Path, commands: Commands, producer: str) -> None:
    """zbufd replay beside zbuf dump, as installed, in a folder that is not the project's: every packet arrives."""
    records, dumped = sample(1000), folder / "out.pcapng"
    (folder / "in.pcap").write_bytes(pcap(records))
    replay = ["zbufd", "replay", "in.pcap", "--name", producer, "--wait-readers", "1"]
    dump = ["zbuf", "dump", "--wait-producer", "60", "-w", dumped.name, producer]
    zbufd, zbuf = (
        commands.adopt(subprocess.Popen([environment / "bin" / name, *rest], cwd=folder, stderr=PIPE, text=True))
        for name, *rest in (replay, dump)
    )
    for process in (zbuf, zbufd):
        said = process.communicate(timeout=LIMIT_S)[1]
        assert process.returncode == 0, said
    assert read_capture(dumped.read_bytes()).records == records


def test_the_wheel_replays_and_dumps_where_nothing_else_of_the_project_is(
    installed: Path, tmp_path: Path, commands: Commands, producer_name: str
) -> None:
    replay_to_dump(installed, tmp_path, commands, producer_name)


def test_the_manylinux_wheel_brings_its_own_libpcap(
    distributions: Distributions, installed: Path, tmp_path: Path, commands: Commands, producer_name: str
) -> None:
    environment = {**os.environ, "VENV": str(Path(sys.prefix))}
    run(ROOT / ".ci" / "wheel", tmp_path, distributions.wheel, env=environment)
    (wheel,) = tmp_path.glob("*manylinux*.whl")
    python = installed / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    program = "import zbuf.producer.filters; print(open('/proc/self/maps').read())"
    maps = run(python, "-c", program, cwd=tmp_path)
    loaded = {Path(line.split()[-1]) for line in maps.splitlines() if re.search(r"/libpcap[-.]", line)}
    assert {library.parent.name for library in loaded} == {"zbuf.libs"}
    replay_to_dump(installed, tmp_path, commands, producer_name)
