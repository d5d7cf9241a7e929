"""zbufd: the command of the producer side."""

from typing import NoReturn

from zbuf.producer.daemon.command import capture, check_config, interfaces
from zbuf.producer.load.replay.command import replay
from zbuf.producer.load.sweep.command import sweep
from zbuf.shared.cli.commandline import make_app, run

app = make_app("zbufd", "Read packets, and publish them to any number of processes through shared memory.")
for command in (capture, replay, sweep, check_config, interfaces):
    app.command()(command)


def main() -> NoReturn:
    """The entry point of zbufd."""
    run(app, "zbufd")
