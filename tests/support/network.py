"""A network namespace of a test's own, with a veth pair in it; this needs root."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root, and ip, for a network namespace"
)


class Network:
    """Interfaces `za` and `zb`, the two ends of a wire, and `lo`; all of them up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.add_wire()
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        """Run ip(8) in this namespace."""
        command = ["ip", "-n", self.name, *arguments]
        return os.fsdecode(subprocess.run(command, check=True, capture_output=True).stdout)

    def add_wire(self, here: str = "za", there: str = "zb") -> None:
        """Make two more interfaces, through which only the test's own packets go."""
        self.ip("link", "add", here, "type", "veth", "peer", "name", there)
        for one in (here, there):
            self.ip("link", "set", one, "addrgenmode", "none")  # or the kernel sends neighbour discovery
            self.ip("link", "set", one, "up")

    def index(self, name: str) -> int:
        """The number of an interface."""
        return int(json.loads(self.ip("-j", "link", "show", name))[0]["ifindex"])

    def names(self) -> list[str]:
        """The interfaces, as ip(8) lists them."""
        return [one["ifname"] for one in json.loads(self.ip("-j", "link", "show"))]

    def inside(self, *command: str) -> list[str]:
        """A command line that runs in this namespace."""
        return ["ip", "netns", "exec", self.name, *command]


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """A network, which is removed at the end of the block."""
    name = f"zbuf-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Network(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
