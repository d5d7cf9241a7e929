"""What deploy/ installs works: the unit, the configuration, the image, and the containers of docker-compose.yml."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from support.commands import wait_line
from support.project import ROOT
from support.rig import wait_until

from zbuf.consumer import connect
from zbuf.consumer.reading.connection import Connection

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent

SERVICES = ["dump", "statistics", "producer"]
CONSUMERS = {"dump", "statistics"}

_CAP_NET_RAW = 1 << 13
_words = count()
_BURST = 2000  # packets; what else is on the interface is a few
_SOON_S = 60  # for broken code only: what works is there within seconds
_EXPOSURE_MAX = 1.6  # of 10, as systemd reckons it

# The traffic of a container: numbered packets that carry a word, to a port where nobody listens.
_SEND = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
    for number in range(int(sys.argv[2])):
        try:
            sending.sendto(f"<{sys.argv[1]} {number}>".encode(), ("127.0.0.1", 9))
        except ConnectionRefusedError:
            pass  # of the packet before
"""


def run(*command: str | Path, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it says is in the failure where it fails."""
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, errors="replace", env={**os.environ, **environment}
    )
    assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
    return ended


# ---- the unit and the configuration ---------------------------------------------------------------------------------


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with the commands of this environment in place of those in /opt."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here: apt-get install systemd")
    path = tmp_path / "zbufd.service"
    path.write_text((DEPLOY / "zbufd.service").read_text().replace("/opt/zbuf/bin", str(BIN)))
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    found = run("systemd-analyze", "verify", unit)
    assert found.stdout + found.stderr == ""


def test_systemd_finds_the_unit_s_sandbox_tight(unit: Path) -> None:
    threshold = f"--threshold={_EXPOSURE_MAX * 10:.0f}"
    run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, unit)


def checked(text: str, directory: Path) -> None:
    """Check a configuration; the group of this process stands for one that is made when the service is installed."""
    file = directory / "zbufd.toml"
    file.write_text(text.replace('group = "zbuf"', f'group = "{os.getegid()}"'))
    run(BIN / "zbufd", "check-config", file)


def test_the_example_configuration_passes_the_check(tmp_path: Path) -> None:
    checked((DEPLOY / "zbufd.toml").read_text(), tmp_path)


def test_every_commented_line_of_the_example_configuration_passes_the_check_too(tmp_path: Path) -> None:
    text = (DEPLOY / "zbufd.toml").read_text()
    checked(re.sub(r"^# ?(?=[a-z-]+ = |\[\[)", "", text, flags=re.MULTILINE), tmp_path)


def commands_of(unit: str, key: str, places: dict[str, Path]) -> list[list[str]]:
    """The command lines that the unit has under a key, with other places in place of those of an installed service."""
    found = re.findall(rf"^{key}=-?(.+)$", unit, re.MULTILINE)
    for before, after in places.items():
        found = [line.replace(before, str(after)) for line in found]
    return [shlex.split(line) for line in found]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to capture")
def test_the_unit_saves_what_a_killed_daemon_s_readers_had_not_read_and_says_where(
    tmp_path: Path, producer_name: str, run_dir: Path
) -> None:
    unit = (DEPLOY / "zbufd.service").read_text()
    (directory,) = re.findall(r"^StateDirectory=(.+)$", unit, re.MULTILINE)
    state, config = tmp_path / "state", tmp_path / "zbufd.toml"
    state.mkdir()
    config.write_text(f'interface = ["lo"]\nname = "{producer_name}"\nlog-format = "text"\nfilter = "udp port 9"\n')
    places = {"/opt/zbuf/bin": BIN, "/etc/zbuf/zbufd.toml": config, f"/var/lib/{directory}": state}
    (start,), (after,) = commands_of(unit, "ExecStart", places), commands_of(unit, "ExecStopPost", places)
    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True) as daemon:
        wait_line(daemon.stderr, "connect to")
        with connect(producer_name, run_dir=run_dir):
            run(sys.executable, "-c", _SEND, "kept", "20")
            with Connection(producer_name, run_dir) as asking:
                wait_until(lambda: asking.stats().descriptors[0].accepted >= 20)
            daemon.kill()
            daemon.wait()
    said = run(*after).stdout
    (file,) = state.iterdir()
    assert said.startswith(f"{file}: 20 packets of descriptor ")
    assert file.read_bytes().count(b"<kept ") == 20
    assert list(Path("/dev/shm").glob(f"zbuf.{producer_name}.*")) == []
    assert run(*after).returncode == 0  # that nothing is left is no failure


# ---- the image and the containers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """The image, built from this tree."""
    if shutil.which("docker") is None or run("docker", "info", check=False).returncode != 0:
        pytest.skip("no Docker engine runs here")
    name = f"zbuf-test-{os.getpid()}"
    run("docker", "build", "--network", "host", "-f", DEPLOY / "Dockerfile", "-t", name, ROOT)
    yield name
    run("docker", "rmi", name)


class Containers:
    """The containers of docker-compose.yml, as a project of its own that captures the loopback interface."""

    def __init__(self, image: str) -> None:
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        self._command = [*command, "-p", image, "-f", str(ROOT / "docker-compose.yml")]
        self._environment = {
            "ZBUF_IMAGE": image,
            "ZBUF_INTERFACE": "lo",
            "ZBUF_METRICS": f"127.0.0.1:{_free_port()}",
        }

    def compose(self, *words: str, check: bool = True) -> str:
        return run(*self._command, *words, check=check, **self._environment).stdout

    def send(self, word: str) -> None:
        """Have the producer's interface carry a burst of packets."""
        self.compose("exec", "-T", "producer", "python3", "-c", _SEND, word, str(_BURST))

    def dumped(self, word: str) -> bool:
        """Whether a whole burst of that word is in the dump consumer's files."""
        files = self.compose("exec", "-T", "dump", "sh", "-c", "cat /captures/*.pcapng", check=False)
        return len(set(re.findall(rf"<{word} (\d+)>", files))) == _BURST

    def counted(self) -> int:
        """How many packets the statistics consumer has told of."""
        said = self.compose("logs", "--no-color", "statistics")
        return sum(int(packets) for packets in re.findall(r"(\d+) packets, ", said))

    def soon(self, happens: Callable[[], bool]) -> None:
        """Wait for it, and show what the containers say where it does not happen."""
        deadline = time.monotonic() + _SOON_S
        while not happens():
            assert time.monotonic() < deadline, self.compose("ps") + self.compose("logs", "--tail", "30")
            time.sleep(0.2)

    def packets_reach(self, *consumers: str) -> None:
        """Send bursts until each of these consumers has had a whole one: one that has just come back may miss some."""
        word = f"burst-{next(_words)}"
        counted = self.counted()

        def arrived() -> bool:
            self.send(word)
            return all(
                self.dumped(word) if consumer == "dump" else self.counted() >= counted + _BURST
                for consumer in consumers
            )

        self.soon(arrived)


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def containers(image: str) -> Iterator[Containers]:
    if shutil.which("docker-compose") is None and run("docker", "compose", "version", check=False).returncode != 0:
        pytest.skip("no docker-compose here")
    containers = Containers(image)
    try:
        containers.compose("up", "-d", "--no-build")
        yield containers
    finally:
        containers.compose("down", "--volumes", "--timeout", "5")


@pytest.mark.docker
def test_the_image_holds_nothing_that_built_it(image: str) -> None:
    look = (
        "for tool in gcc make pip pip3 curl; do command -v $tool; done; find /usr /opt -name __pycache__ -o -name pip"
    )
    assert run("docker", "run", "--rm", "--user", "root", image, "sh", "-c", look).stdout == ""


@pytest.mark.docker
def test_packets_reach_both_consumers(containers: Containers) -> None:
    containers.packets_reach("dump", "statistics")


@pytest.mark.docker
@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_no_more_than_it_needs(containers: Containers, service: str) -> None:
    status = containers.compose("exec", "-T", service, "cat", "/proc/1/status")
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == (_CAP_NET_RAW if service == "producer" else 0)
    assert found["NoNewPrivs"] == "1"
    assert service == "producer" or found["Uid"].split()[0] != "0"
    assert "Read-only" in containers.compose("exec", "-T", service, "sh", "-c", "touch /opt/x 2>&1", check=False)


@pytest.mark.docker
@pytest.mark.parametrize("killed", SERVICES)
def test_a_killed_container_stops_no_other_and_comes_back(containers: Containers, killed: str) -> None:
    containers.compose("kill", killed)
    if killed != "producer":
        containers.packets_reach(*CONSUMERS - {killed})
    containers.compose("start", killed)
    containers.packets_reach(*CONSUMERS)
