"""The options of `zbufd capture`: from a TOML file, from flags, or from both; a flag takes precedence over the file.

Each is declared once, in Configuration. The keys of the file are the long flags without their dashes. Everything is
checked here, before anything is opened.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
import typer
from msgspec import Meta

from zbuf.producer.daemon.logs import LogFormat
from zbuf.producer.filters import compile_filter
from zbuf.producer.serving.access import Rule, group_id, user_id
from zbuf.producer.serving.limits import Limits
from zbuf.producer.serving.waiting import DEFAULT_LINGER_S
from zbuf.producer.sources.live.interfaces import list_interfaces
from zbuf.producer.sources.live.opening import DEFAULT_KERNEL_BUFFER_BYTES, Engine, LiveOptions, Precision
from zbuf.shared.cli.options import annotations
from zbuf.shared.control.settings import FILTER_LENGTH_MAX, Direction
from zbuf.shared.errors import ConfigurationError, FilterError, ValueRefused
from zbuf.shared.memory.layout import MAX_CAPLEN
from zbuf.shared.memory.sizes import buffer_bytes, size_in_bytes
from zbuf.shared.names import check_name

_LINKTYPES = (1, 276, 101, 127)  # Ethernet, cooked, raw IP, Wi-Fi: a filter must compile for one of these

_Seconds = Annotated[float, Meta(ge=0, le=1e9, description="a number of seconds, 0 or more")]
_Count = Annotated[int, Meta(ge=1, le=65536, description="a whole number from 1 to 65536")]
_Switch = Annotated[bool, Meta(description="true or false")]
_Size = Annotated[str, Meta(description='a size such as "2M": bytes, or a number with k, M or G')]
_Text = Annotated[str, Meta(description="a string")]
_Names = Annotated[list[str], Meta(description="a list of strings")]


def _complete_interface(incomplete: str) -> list[str]:
    return [one.name for one in list_interfaces() if one.name.startswith(incomplete)]


def _option(*names: str, help: str, **more: Any) -> Any:  # noqa: A002  (typer's word)
    """The flag of a key. Its help tells the default in brackets: typer's default would override the file's value."""
    return typer.Option(*names, help=help, show_default=False, **more)


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """All settings of a capture: the keys of the file. Those with an option are flags of `zbufd capture`, too."""

    interface: Annotated[
        _Names,
        _option(
            "-i",
            "--interface",
            metavar="IFACE",
            help="An interface, any, or a number that zbufd interfaces shows. Repeatable.",
            autocompletion=_complete_interface,
        ),
    ] = []
    engine: Annotated[
        Engine,
        Meta(description="auto, pcap or scapy"),
        _option(help="What reads the packets [auto: pcap if it can]."),
    ] = "auto"
    name: Annotated[
        _Text | None, _option(metavar="N", help="What readers connect to [the name of the first interface].")
    ] = None
    filter: _Text = ""
    snapshot_length: Annotated[
        int,
        Meta(ge=0, le=MAX_CAPLEN, description=f"0 to {MAX_CAPLEN} bytes"),
        _option("-s", "--snapshot-length", metavar="SNAPLEN", help="Bytes to keep of each packet [all]."),
    ] = MAX_CAPLEN
    no_promiscuous_mode: Annotated[
        _Switch, _option("-p", "--no-promiscuous-mode", help="Capture only what is sent to this machine.")
    ] = False
    kernel_buffer: Annotated[
        int,
        Meta(ge=1, le=2**21 - 1, description=f"1 to {2**21 - 1} KiB"),
        _option(
            "-B",
            "--kernel-buffer",
            metavar="KiB",
            help=f"Size of the kernel's buffer for each interface [{DEFAULT_KERNEL_BUFFER_BYTES >> 10}].",
        ),
    ] = DEFAULT_KERNEL_BUFFER_BYTES >> 10
    direction: Annotated[
        Direction,
        Meta(description="in, out or inout"),
        _option("-Q", "--direction", help="Which packets to capture [inout]."),
    ] = "inout"
    immediate_mode: Annotated[
        _Switch, _option("--immediate-mode", help="Take each packet from the kernel at once.")
    ] = False
    linktype: Annotated[
        _Text | None,
        _option("-y", "--linktype", metavar="TYPE", help="Link type, by name [the usual one; LINUX_SLL2 for any]."),
    ] = None
    time_stamp_type: Annotated[
        _Text | None,
        _option("-j", "--time-stamp-type", metavar="TYPE", help="Who stamps packets, by name [the usual one]."),
    ] = None
    time_stamp_precision: Annotated[
        Precision, Meta(description="micro or nano"), _option(help="Precision of time stamps [nano].")
    ] = "nano"
    buffer_size: Annotated[_Size, _option(metavar="S", help="Size of a buffer, for readers that give none [8M].")] = (
        "8M"
    )
    linger: Annotated[
        _Seconds,
        _option(metavar="SECONDS", help=f"Wait so long at the end for slow readers [{DEFAULT_LINGER_S:g}]."),
    ] = DEFAULT_LINGER_S
    slow_readers: Annotated[
        Literal["drop", "evict"],
        Meta(description="drop or evict"),
        _option(help="What to do if one reader holds up those that share its descriptor [drop]."),
    ] = "drop"
    evict_after: Annotated[
        _Seconds, _option(metavar="SECONDS", help="How long it may hold them up before it is evicted [5].")
    ] = 5.0
    run_dir: Annotated[
        _Text | None,
        _option(metavar="DIR", help="The directory of the control socket [/run/zbuf for root].", envvar="ZBUF_RUN_DIR"),
    ] = None
    user: Annotated[
        _Text | None, _option("-Z", "--user", metavar="USER", help="Become USER once the interfaces are open.")
    ] = None
    group: Annotated[_Text | None, _option(metavar="GROUP", help="Let the members of GROUP read.")] = None
    mode: Annotated[
        Annotated[str, Meta(pattern="^0?[0-7]{3}$", description='permissions such as "0660"')] | None,
        _option(metavar="MODE", help="Permissions of the control socket [0600; 0660 with --group]."),
    ] = None
    max_descriptors: Annotated[
        _Count, _option(metavar="N", help=f"Most descriptors at a time [{Limits.descriptors}].")
    ] = Limits.descriptors
    max_readers: Annotated[_Count, _option(metavar="N", help=f"Most readers at a time [{Limits.readers}].")] = (
        Limits.readers
    )
    max_connections: Annotated[
        _Count, _option(metavar="N", help=f"Most connections at a time [{Limits.connections}].")
    ] = Limits.connections
    max_descriptors_per_user: Annotated[
        _Count | None, _option(metavar="N", help="Most descriptors of one user [as many as are left].")
    ] = None
    max_readers_per_user: Annotated[
        _Count | None, _option(metavar="N", help="Most readers of one user [as many as are left].")
    ] = None
    max_connections_per_user: Annotated[
        _Count | None, _option(metavar="N", help="Most connections of one user [as many as are left].")
    ] = None
    max_memory_per_user: Annotated[
        _Size | None, _option(metavar="S", help="Most shared memory for one user's descriptors [as much as is left].")
    ] = None
    max_filter_instructions: Annotated[
        _Count, _option(metavar="N", help=f"Most instructions of a reader's filter [{Limits.filter_instructions}].")
    ] = Limits.filter_instructions
    max_filter_instructions_per_user: Annotated[
        _Count,
        _option(
            metavar="N",
            help=f"Most instructions of the filters of one user's descriptors [{Limits.filter_instructions_per_user}].",
        ),
    ] = Limits.filter_instructions_per_user
    filter_names: Annotated[
        _Switch, _option("--filter-names", help="Look up the names of hosts and services in filters of all users.")
    ] = False
    salvage: Annotated[
        _Text | None, _option(metavar="DIR", help="Write what a killed zbufd of this name left unread to files in DIR.")
    ] = None
    metrics: Annotated[
        Annotated[str, Meta(pattern=r"^.+:[0-9]{1,5}$", description='an address such as "127.0.0.1:9477"')] | None,
        _option(metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /healthz."),
    ] = None
    log_format: Annotated[
        LogFormat,
        Meta(description="auto, text or json"),
        _option(help="How to log [auto: text on a terminal, else json]."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="debug, info, warning or error"),
        _option(help="The least that is logged [info]."),
    ] = "info"
    allow: Annotated[list[Rule], Meta(description="[[allow]] tables with users, groups, filter and interfaces")] = []

    @property
    def buffer_bytes(self) -> int:
        """The size of a buffer in bytes, for readers that give none."""
        return buffer_bytes(self.buffer_size)

    @property
    def socket_mode(self) -> int:
        """The permissions of the control socket: `mode` if it is given, else 0660 with a group, and 0600 without."""
        return int(self.mode, 8) if self.mode else 0o660 if self.group else 0o600

    @property
    def uid(self) -> int | None:
        """The number of the user to become; None to stay the same user."""
        return None if self.user is None else user_id(self.user)

    @property
    def gid(self) -> int | None:
        """The number of the socket's group; None for this process's own."""
        return None if self.group is None else group_id(self.group)

    @property
    def limits(self) -> Limits:
        """How much readers may ask for."""
        memory = self.max_memory_per_user
        return Limits(
            descriptors=self.max_descriptors,
            readers=self.max_readers,
            connections=self.max_connections,
            descriptors_per_user=self.max_descriptors_per_user,
            readers_per_user=self.max_readers_per_user,
            connections_per_user=self.max_connections_per_user,
            memory_per_user=None if memory is None else size_in_bytes(memory),
            filter_instructions=self.max_filter_instructions,
            filter_instructions_per_user=self.max_filter_instructions_per_user,
            names=self.filter_names,
            evict_after_s=self.evict_after if self.slow_readers == "evict" else None,
        )

    @property
    def live_options(self) -> LiveOptions:
        """How to open the interfaces."""
        return LiveOptions(
            snaplen=self.snapshot_length or MAX_CAPLEN,
            promiscuous=not self.no_promiscuous_mode,
            kernel_buffer_bytes=self.kernel_buffer << 10,
            immediate=self.immediate_mode,
            direction=self.direction,
            expression=self.filter,
            linktype=self.linktype,
            time_stamp_type=self.time_stamp_type,
            time_stamp_precision=self.time_stamp_precision,
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Where metrics are served: a host and a port."""
        if self.metrics is None:
            return None
        host, _, port = self.metrics.rpartition(":")
        return host.strip("[]"), int(port)


CHANGEABLE = frozenset(
    {
        "allow",
        "evict-after",
        "filter-names",
        "linger",
        "log-level",
        "max-connections",
        "max-connections-per-user",
        "max-descriptors",
        "max-descriptors-per-user",
        "max-filter-instructions",
        "max-filter-instructions-per-user",
        "max-memory-per-user",
        "max-readers",
        "max-readers-per-user",
        "slow-readers",
    }
)
"""The keys that a reload applies; the others need a restart."""


def load(path: str | None, flags: dict[str, Any] | None = None) -> Configuration:
    """Read the configuration from a file and from flags, and check it.

    Args:
        path: the path of a TOML file; None for no file.
        flags: the values of the flags that were given, by key.

    Raises:
        ConfigurationError: a value is wrong; the message names the file, the line, the key, and what is allowed.
    """
    text = "" if path is None else _read(path)
    from_file = _parse(path, text)
    try:
        configuration = msgspec.convert(from_file, Configuration)
        _check(configuration)
    except (msgspec.ValidationError, _Wrong) as error:
        raise ConfigurationError(_message(f"{path}: ", text, error, "")) from None
    try:
        configuration = msgspec.convert(from_file | (flags or {}), Configuration)
        _check(configuration)
    except (msgspec.ValidationError, _Wrong) as error:
        raise ConfigurationError(_message("", "", error, "--")) from None
    return configuration


def differences(old: Configuration, new: Configuration) -> set[str]:
    """The keys whose values in `new` differ from those in `old`."""
    before, after = (msgspec.to_builtins(one) for one in (old, new))
    return {key for key in before if before[key] != after[key]}


class _Wrong(Exception):
    """A value has the right type, but can't be used: its path, as msgspec writes it, and why."""

    def __init__(self, path: str, why: object) -> None:
        super().__init__(f"{why} - at `$.{path}`")


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}: is this a TOML file?") from None


def _parse(path: str | None, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).partition(" (at line ")
        line = f"line {where.split(',')[0]}: " if where.split(",")[0].isdecimal() else ""
        raise ConfigurationError(f"{path}: {line}{what}: not TOML, https://toml.io") from None


# ---- what types don't check -----------------------------------------------------------------------------------------


def _check(configuration: Configuration) -> None:
    """Raise _Wrong for the first value that can't be used."""
    checks: list[tuple[str, Any]] = [
        ("name", lambda: configuration.name is None or check_name(configuration.name)),
        ("filter", lambda: check_filter(configuration.filter)),
        ("buffer-size", lambda: buffer_bytes(configuration.buffer_size)),
        (
            "max-memory-per-user",
            lambda: configuration.max_memory_per_user is None or _size(configuration.max_memory_per_user),
        ),
        ("user", lambda: configuration.uid),
        ("group", lambda: configuration.gid),
        ("metrics", lambda: _check_port(configuration)),
    ]
    for number, rule in enumerate(configuration.allow):
        path = f"allow[{number}]"
        checks += [
            (f"{path}.users", lambda rule=rule: list(map(user_id, rule.users))),
            (f"{path}.groups", lambda rule=rule: list(map(group_id, rule.groups))),
            (f"{path}.filter", lambda rule=rule: check_filter(rule.filter)),
            (f"{path}.interfaces", lambda rule=rule: _check_interfaces(rule, configuration)),
            (path, lambda rule=rule: _check_rule(rule)),
        ]
    for path, check in checks:
        try:
            check()
        except ValueRefused as error:
            raise _Wrong(path, error) from None


def check_filter(expression: str) -> None:
    """Raise FilterError if a filter compiles for none of the usual link types."""
    if len(expression) > FILTER_LENGTH_MAX:
        raise FilterError(f"filter of {len(expression)} characters: use at most {FILTER_LENGTH_MAX}")
    for linktype in _LINKTYPES:
        try:
            compile_filter(expression, linktype)
        except FilterError as error:
            if linktype == _LINKTYPES[0]:
                first = error
        else:
            return
    raise first


def _size(text: str) -> int:
    size = size_in_bytes(text)
    if size is None:
        raise ValueRefused(f"{text!r} is not a size")
    return size


def _check_port(configuration: Configuration) -> None:
    if configuration.address is not None and not 0 <= configuration.address[1] <= 65535:
        raise ValueRefused(f"port {configuration.address[1]} is more than 65535")


def _check_interfaces(rule: Rule, configuration: Configuration) -> None:
    for name in rule.interfaces:
        if configuration.interface and name not in configuration.interface:
            raise ValueRefused(f"interface {name!r} is not one of this capture's: {', '.join(configuration.interface)}")


def _check_rule(rule: Rule) -> None:
    if not rule.users and not rule.groups:
        raise ValueRefused("an allow rule without users and groups allows nobody")


# ---- messages -------------------------------------------------------------------------------------------------------

_AT = re.compile(r"(?s)(.*) - at `\$\.?(.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


def _message(where: str, text: str, error: Exception, dashes: str) -> str:
    """Write one line: the file, the line, the key, what is wrong, what is allowed."""
    match = _AT.fullmatch(str(error))
    what, path = (match[1], match[2]) if match else (str(error), "")
    unknown = _UNKNOWN.fullmatch(what)
    if unknown:
        path = f"{path}.{unknown[1]}" if path else unknown[1]
        keys = (
            list(Rule.__struct_fields__) if path.startswith("allow[") else list(Configuration.__struct_encode_fields__)
        )
        close = difflib.get_close_matches(unknown[1], keys, 1)
        what = f"no such key: {'do you mean ' + close[0] + '?' if close else 'there are ' + ', '.join(sorted(keys))}"
    elif not isinstance(error, _Wrong):
        what = f"{what[0].lower()}{what[1:]}: it must be {_allowed(path)}"
    line = _line_of(text, path)
    return f"{where}{f'line {line}: ' if line else ''}{dashes}{path}: {what}"


def _allowed(path: str) -> str:
    """What a key may be, in the words of its description."""
    if re.fullmatch(r"allow\[\d+\]\..*", path):
        return "a string" if path.endswith("filter") else "a list of strings"
    key = re.split(r"[.\[]", path)[0].replace("-", "_")
    hint = get_type_hints(Configuration, include_extras=True).get(key)
    described = [one.description for one in annotations(hint) if isinstance(one, Meta) and one.description]
    return described[0] if described else "something else"


def _line_of(text: str, path: str) -> int | None:
    """The line of a key in a TOML file, from 1, or of its table if the key is not found."""
    table = re.fullmatch(r"allow\[(\d+)\]\.?(.*)", path)
    wanted = int(table[1]) if table else -1
    key = re.split(r"[.\[]", table[2] if table else path)[0]
    current, found = -1, None
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*\[", line):
            current += bool(re.match(r"\s*\[\[\s*allow\s*\]\]", line))
            found = number if table and current == wanted else found
            if re.match(rf"\s*\[+\s*\"?{re.escape(key)}\"?\s*\]", line) and not table:
                return number
        elif current == wanted and key and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""", line):
            return number
    return found
