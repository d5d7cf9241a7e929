"""The interfaces of this machine: what there is, and which one is meant."""

from dataclasses import dataclass

from zbuf.producer.sources.live.libpcap_devices import find_devices, find_link_types, find_time_stamp_types
from zbuf.producer.sources.live.netdevice import printable
from zbuf.shared.errors import InterfaceError


@dataclass(frozen=True)
class ListedInterface:
    """One interface that can be given with -i."""

    name: str
    """As it is shown: a byte of it that is not UTF-8 is written as an escape."""
    description: str
    flags: list[str]
    """Some of Up, Running, Loopback."""
    addresses: list[str]


def list_interfaces() -> list[ListedInterface]:
    """All that libpcap can open, in the order of `tcpdump -D`."""
    return [
        ListedInterface(printable(name), description, flags, addresses)
        for name, description, flags, addresses in find_devices()
    ]


def resolve(names: list[str]) -> list[str]:
    """The interfaces that -i named: names, or numbers in the list; without any, the first of the list.

    Returns:
        Names as of os.fsdecode().

    Raises:
        InterfaceError: the list has no such number, or nothing that is up.
    """
    if not names:
        return [_default()]
    return [_by_number(name) if name.isdecimal() else name for name in names]


def describe_choices(names: list[str], *, link_types: bool) -> str:
    """What -y, or else -j, can be for the interface that -i named, in tcpdump's words.

    Raises:
        InterfaceError: there is no such interface, or it can't be opened.
    """
    name = resolve(names[-1:])[0]
    what, option = ("Data link types", "y") if link_types else ("Time stamp types", "j")
    choices = find_link_types(name) if link_types else find_time_stamp_types(name)
    if not choices:
        return f"{what[:-1]} cannot be set for {printable(name)}\n"
    lines = [f"  {choice} ({description})\n" for choice, description in choices]
    return f"{what} for {printable(name)} (use option -{option} to set):\n{''.join(lines)}"


def _default() -> str:
    for name, _, flags, _ in find_devices():
        if "Up" in flags:
            return name
    raise InterfaceError("no interface is up: name one with -i; zbufd interfaces lists what there is")


def _by_number(number: str) -> str:
    listed = [name for name, *_ in find_devices()]
    if number in listed:
        return number
    if not 1 <= int(number) <= len(listed):
        raise InterfaceError(f"interface number {number}: zbufd interfaces lists 1 to {len(listed)}")
    return listed[int(number) - 1]
