"""zbufd capture, and what goes with it."""

import json as jsonlib
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from zbuf.producer.daemon import logs
from zbuf.producer.daemon.configuration import Configuration, load
from zbuf.producer.daemon.daemon import Daemon
from zbuf.producer.sources.live.interfaces import describe_choices, list_interfaces
from zbuf.shared.cli.commandline import Json, whole_number
from zbuf.shared.memory.layout import MAX_CAPLEN


def _complete_interface(incomplete: str) -> list[str]:
    return [one.name for one in list_interfaces() if one.name.startswith(incomplete)]


def _option(*names: str, metavar: str, help: str, **more: Any) -> Any:  # noqa: A002  (typer's word)
    """An option whose default is the configuration's: help tells it in brackets."""
    return typer.Option(*names, metavar=metavar, help=help, show_default=False, **more)


def _switch(*names: str, help: str) -> Any:  # noqa: A002
    return typer.Option(*names, help=help, show_default=False)


def _number(least: int, most: int | None = None) -> Any:
    return whole_number(least, most)


def capture(
    expression: Annotated[
        list[str] | None, typer.Argument(metavar="[FILTER...]", help="A pcap-filter(7), set before the first packet.")
    ] = None,
    interface: Annotated[
        list[str] | None,
        _option(
            "-i",
            "--interface",
            metavar="IFACE",
            help="Interface, any, or a number of zbufd interfaces; again for more.",
            autocompletion=_complete_interface,
        ),
    ] = None,
    engine: Annotated[
        str | None, _option(metavar="auto|pcap|scapy", help="What reads the packets [auto: pcap where it can].")
    ] = None,
    name: Annotated[
        str | None, _option(metavar="N", help="What readers connect to [the first interface's name].")
    ] = None,
    snapshot_length: Annotated[
        int | None,
        _option(
            "-s",
            "--snapshot-length",
            metavar="SNAPLEN",
            help="Bytes of each packet [all].",
            parser=_number(0, MAX_CAPLEN),
        ),
    ] = None,
    no_promiscuous_mode: Annotated[
        bool, _switch("-p", "--no-promiscuous-mode", help="See only what is for this machine.")
    ] = False,
    kernel_buffer: Annotated[
        int | None,
        _option(
            "-B",
            "--kernel-buffer",
            metavar="KiB",
            help="Size of the kernel's buffer, of each interface [16384].",
            parser=_number(1),
        ),
    ] = None,
    direction: Annotated[
        str | None, _option("-Q", "--direction", metavar="in|out|inout", help="Which packets [inout].")
    ] = None,
    immediate_mode: Annotated[
        bool, _switch("--immediate-mode", help="Take each packet from the kernel at once.")
    ] = False,
    linktype: Annotated[
        str | None,
        _option("-y", "--linktype", metavar="TYPE", help="Link type, by name [the usual one; LINUX_SLL2 for any]."),
    ] = None,
    list_data_link_types: Annotated[
        bool, _switch("-L", "--list-data-link-types", help="List the interface's link types, and end.")
    ] = False,
    time_stamp_type: Annotated[
        str | None,
        _option("-j", "--time-stamp-type", metavar="TYPE", help="Who stamps packets, by name [the usual one]."),
    ] = None,
    list_time_stamp_types: Annotated[
        bool, _switch("-J", "--list-time-stamp-types", help="List the interface's time stamp types, and end.")
    ] = False,
    time_stamp_precision: Annotated[
        str | None, _option(metavar="micro|nano", help="Precision of time stamps [nano].")
    ] = None,
    buffer_size: Annotated[
        str | None, _option(metavar="S", help="Size of a buffer, for readers that do not say [8M].")
    ] = None,
    slow_readers: Annotated[
        str | None,
        _option(metavar="drop|evict", help="Where one reader holds up those that share its descriptor [drop]."),
    ] = None,
    evict_after: Annotated[
        float | None, _option(metavar="SECONDS", help="How long it may, before it is evicted [5].")
    ] = None,
    linger: Annotated[
        float | None,
        _option(metavar="SECONDS", help="How long to wait at the end for readers to take the rest [5]."),
    ] = None,
    max_descriptors: Annotated[int | None, _option(metavar="N", help="[64]")] = None,
    max_readers: Annotated[int | None, _option(metavar="N", help="[256]")] = None,
    max_connections: Annotated[int | None, _option(metavar="N", help="[512]")] = None,
    max_descriptors_per_user: Annotated[int | None, _option(metavar="N", help="[as many]")] = None,
    max_memory_per_user: Annotated[
        str | None, _option(metavar="S", help="Shared memory for a user's descriptors [as much].")
    ] = None,
    run_dir: Annotated[
        str | None,
        _option(metavar="DIR", help="Where readers find it [/run/zbuf for root].", envvar="ZBUF_RUN_DIR"),
    ] = None,
    user: Annotated[
        str | None,
        _option("-Z", "--user", metavar="USER", help="Become USER once the interfaces are open."),
    ] = None,
    group: Annotated[str | None, _option(metavar="GROUP", help="Let the members of GROUP read.")] = None,
    mode: Annotated[
        str | None, _option(metavar="MODE", help="Permissions of the socket [0600; 0660 with --group].")
    ] = None,
    config: Annotated[
        str | None, _option(metavar="FILE", help="TOML, with these options as keys; read again on SIGHUP.")
    ] = None,
    metrics: Annotated[
        str | None, _option(metavar="HOST:PORT", help="Serve /metrics for Prometheus, and /healthz.")
    ] = None,
    salvage: Annotated[
        str | None,
        _option(metavar="DIR", help="Write what a killed zbufd of this name left unread to files there."),
    ] = None,
    log_format: Annotated[str | None, _option(metavar="auto|text|json", help="[auto: text on a terminal]")] = None,
    log_level: Annotated[str | None, _option(metavar="LEVEL", help="debug, info, warning or error [info].")] = None,
) -> None:
    """Capture on live interfaces, and serve any number of readers, until SIGTERM or SIGINT.

    SIGUSR1 logs a line of statistics, SIGHUP reads the configuration file again.
    """
    if list_data_link_types or list_time_stamp_types:
        sys.stdout.write(describe_choices(interface or [], link_types=list_data_link_types))
        return
    given = {key.replace("_", "-"): value for key, value in locals().items() if value not in (None, False, [])}
    flags = {key: value for key, value in given.items() if key not in ("config", "expression")}
    if expression:
        flags["filter"] = " ".join(expression)

    def read() -> Configuration:
        return load(config, flags)

    configuration = read()
    logs.set_up("zbufd", configuration.log_format, configuration.log_level)
    Daemon(configuration, read if config is not None else None).run()


def check_config(file: Annotated[str, typer.Argument(metavar="FILE", help="A configuration file.")]) -> None:
    """Check a configuration file of zbufd capture."""
    load(file)
    sys.stdout.write(f"{file}: good\n")


def interfaces(json: Annotated[bool, Json] = False) -> None:
    """List the interfaces that zbufd capture can be given."""
    found = list_interfaces()
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(one) for one in found], indent=2) + "\n")
        return
    for number, one in enumerate(found, 1):
        description = f" ({one.description})" if one.description else ""
        flags = f" [{', '.join(one.flags)}]" if one.flags else ""
        addresses = f" {' '.join(one.addresses)}" if one.addresses else ""
        sys.stdout.write(f"{number}.{one.name}{description}{flags}{addresses}\n")
