"""The interfaces of this machine, as scapy knows them."""

from dataclasses import dataclass
from typing import Any

from zbuf.shared.errors import InterfaceError

_SHOWN_FLAGS = {"UP": "Up", "RUNNING": "Running", "LOOPBACK": "Loopback"}


@dataclass(frozen=True)
class ListedInterface:
    """One interface that can be given with -i."""

    name: str
    description: str
    flags: list[str]
    """Of Up, Running, Loopback."""
    addresses: list[str]


def list_interfaces() -> list[ListedInterface]:
    """The interfaces, those that are up first, as `tcpdump -D` has them; "any" comes last."""
    conf = _scapy_conf()
    found = [_listed(one) for one in sorted(conf.ifaces.values(), key=lambda one: int(one.index))]
    found.sort(key=lambda one: ("Up" not in one.flags, "Loopback" in one.flags))
    everything = ListedInterface("any", "pseudo-device that captures on all interfaces", ["Up", "Running"], [])
    return [*found, everything]


def _listed(interface: object) -> ListedInterface:
    flags = str(getattr(interface, "flags", "")).split("+")
    name = str(getattr(interface, "network_name", "") or getattr(interface, "name", ""))
    description = str(getattr(interface, "description", ""))
    ips: dict[int, list[str]] = getattr(interface, "ips", {})
    return ListedInterface(
        name,
        description if description != name else "",
        [shown for flag, shown in _SHOWN_FLAGS.items() if flag in flags],
        [address for version in sorted(ips) for address in ips[version]],
    )


def resolve(names: list[str]) -> list[str]:
    """The interfaces that -i named: names, or numbers in the list; without any, scapy's default interface.

    Raises:
        InterfaceError: a number that is none of the list's, or no default.
    """
    if not names:
        return [_default()]
    return [_by_number(name) if name.isdecimal() else name for name in names]


def _scapy_conf() -> Any:
    """Scapy's configuration, with what it needs to know of interfaces and routes, and nothing more."""
    import scapy.arch
    import scapy.route  # noqa: F401  (it sets the default interface)
    from scapy.config import conf

    return conf


def _default() -> str:
    conf = _scapy_conf()
    if not conf.iface:
        raise InterfaceError("no default interface: name one with -i; zbufd interfaces lists what there is")
    return str(getattr(conf.iface, "network_name", conf.iface))


def _by_number(number: str) -> str:
    listed = [one.name for one in list_interfaces()]
    if number in listed:
        return number
    if not 1 <= int(number) <= len(listed):
        raise InterfaceError(f"interface number {number}: zbufd interfaces lists 1 to {len(listed)}")
    return listed[int(number) - 1]
