"""zbufd capture, zbufd check-config and zbufd interfaces."""

import json as jsonlib
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from zbuf.producer.daemon import logs
from zbuf.producer.daemon.configuration import Configuration, load
from zbuf.producer.daemon.daemon import Daemon
from zbuf.producer.sources.live.interfaces import describe_choices, list_interfaces
from zbuf.shared.cli.options import Json, takes
from zbuf.shared.names import printable


@takes(Configuration)
def capture(
    flags: dict[str, Any],
    expression: Annotated[
        list[str] | None, typer.Argument(metavar="[FILTER...]", help="A pcap-filter(7), set before the first packet.")
    ] = None,
    list_data_link_types: Annotated[
        bool, typer.Option("-L", "--list-data-link-types", help="List the interface's link types, and end.")
    ] = False,
    list_time_stamp_types: Annotated[
        bool, typer.Option("-J", "--list-time-stamp-types", help="List the interface's time stamp types, and end.")
    ] = False,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="TOML, with these options as keys; read again on SIGHUP.")
    ] = None,
) -> None:
    """Capture on live interfaces, and serve any number of readers, until SIGTERM or SIGINT.

    SIGUSR1 logs a line of statistics, SIGHUP reads the configuration file again.
    """
    if list_data_link_types or list_time_stamp_types:
        chosen = flags.get("interface") or []
        sys.stdout.write(describe_choices(chosen, link_types=list_data_link_types))
        return
    given = {name.replace("_", "-"): value for name, value in flags.items()}
    if expression:
        given["filter"] = " ".join(expression)

    def read() -> Configuration:
        return load(config, given)

    configuration = read()
    logs.set_up("zbufd", configuration.log_format, configuration.log_level)
    Daemon(configuration, read if config is not None else None).run()


def check_config(file: Annotated[str, typer.Argument(metavar="FILE", help="A configuration file.")]) -> None:
    """Check a configuration file of zbufd capture."""
    load(file)
    sys.stdout.write(f"{printable(file)}: good\n")


def interfaces(json: Json = False) -> None:
    """List the interfaces that zbufd capture can capture on."""
    found = list_interfaces()
    if json:
        sys.stdout.write(jsonlib.dumps([asdict(one) for one in found], indent=2) + "\n")
        return
    for number, one in enumerate(found, 1):
        description = f" ({one.description})" if one.description else ""
        flags = f" [{', '.join(one.flags)}]" if one.flags else ""
        addresses = f" {' '.join(one.addresses)}" if one.addresses else ""
        sys.stdout.write(f"{number}.{printable(one.name)}{description}{flags}{addresses}\n")
