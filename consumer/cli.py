"""zbuf: the command of the consumer side."""

from typing import NoReturn

from zbuf.shared.cli.commandline import Entry, make_app, run

_TOLERANT = {"ignore_unknown_options": True, "allow_extra_args": True}
"""For extcap: a Wireshark of another version may give options that are not known here."""

app = make_app(
    "zbuf",
    "Read packets from the captures of zbuf producers, and watch how they do.",
    {
        "dump": Entry("zbuf.consumer.tools.dump.command:dump", "Write packets to files, or print a line for each."),
        "ls": Entry("zbuf.consumer.tools.listing:ls", "List the producers that run."),
        "stats": Entry("zbuf.consumer.tools.listing:stats", "Print what became of every packet of a capture."),
        "top": Entry("zbuf.consumer.tools.top.command:top", "Watch captures, their drops, and slow readers."),
        "salvage": Entry("zbuf.consumer.tools.salvaging:salvage", "Write what a killed producer left unread."),
        "extcap": Entry(
            "zbuf.consumer.tools.extcap.command:extcap", "Show captures in Wireshark and tshark.", _TOLERANT
        ),
        "measure": Entry("zbuf.consumer.tools.measure.command:measure", "Measure how long packets take to a reader."),
        "compare": Entry("zbuf.consumer.tools.compare:compare", "Compare two reports of load tests."),
    },
)


def main() -> NoReturn:
    """Run zbuf."""
    run(app, "zbuf")
