"""zbufd: the command of the producer side."""

from typing import NoReturn

from zbuf.shared.cli.commandline import Entry, make_app, run

app = make_app(
    "zbufd",
    "Read packets, and publish them to any number of processes through shared memory.",
    {
        "capture": Entry("zbuf.producer.daemon.command:capture", "Capture on live interfaces, as a service."),
        "replay": Entry("zbuf.producer.load.replay.command:replay", "Replay capture files, at a rate or at top speed."),
        "sweep": Entry("zbuf.producer.load.sweep.command:sweep", "Find the rate at which consumers lose nothing."),
        "check-config": Entry("zbuf.producer.daemon.command:check_config", "Check a configuration file of capture."),
        "interfaces": Entry("zbuf.producer.daemon.command:interfaces", "List the interfaces that can be captured on."),
    },
)


def main() -> NoReturn:
    """Run zbufd."""
    run(app, "zbufd")
