"""What a load test can fail by: for a shell its exit status, for CI a JUnit file.

The form of the file is the one that CI services agree on: a testsuite with a testcase for each check, a `failure` in
those that failed, `skipped` in those that were not asked for.
"""

import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from zbuf.shared.errors import ZbufError
from zbuf.shared.names import printable


def milliseconds(text: str | float) -> float:
    """Parse a duration of more than 0 milliseconds; the error names the text."""
    try:
        duration = float(text)
    except ValueError:
        duration = 0.0
    if not 0 < duration <= 1e9:
        raise typer.BadParameter(f"{text!r} is not a number of milliseconds: give more than 0, such as 1 or 0.5")
    return duration


MaxLag = Annotated[
    float | None,
    typer.Option(
        parser=milliseconds,
        metavar="MS",
        help="A rate is not held if over 1 % of packets are later than this [1]; if given, exit with 1 then.",
        show_default=False,
    ),
]
Junit = Annotated[str | None, typer.Option(metavar="FILE.xml", help="Also write the outcome as JUnit XML, for CI.")]


@dataclass(frozen=True)
class Check:
    """Something that must be so, and whether it was."""

    name: str
    must: str
    """What must be so, in words."""
    problem: str | None
    """Why it was not so; None if it was."""
    unless: str | None = None
    """The option that asks for this check, if it was not given: then a problem is told, and fails nothing."""

    @property
    def failed(self) -> bool:
        """Whether the load test fails by this check."""
        return self.problem is not None and self.unless is None


def tell_failures(checks: Sequence[Check]) -> bool:
    """Print a line on stderr for each check that failed; returns whether there was any."""
    failed = [one for one in checks if one.failed]
    for one in failed:
        sys.stderr.write(f"zbufd: failed, since {one.problem}\n")
    return bool(failed)


def check_writable(path: str) -> None:
    """Check, before a load test, that its JUnit file can be written.

    Raises:
        ZbufError: it can't.
    """
    folder = Path(path).parent
    if not folder.is_dir():
        raise ZbufError(f"--junit {path}: there is no directory {folder}: make it, or name another file")
    if Path(path).is_dir() or not os.access(path if Path(path).exists() else folder, os.W_OK):
        raise ZbufError(f"--junit {path}: no file can be written there: name another one")


def write_junit(path: str, name: str, seconds: float, checks: Sequence[Check], report: str) -> None:
    """Write the checks as JUnit XML.

    Args:
        path: the file, which is replaced.
        name: of the test suite.
        seconds: how long the load test took.
        checks: the test cases.
        report: the whole report, for those who look into a failure.

    Raises:
        ZbufError: the file can't be written.
    """
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(checks)),
        failures=str(sum(one.failed for one in checks)),
        errors="0",
        skipped=str(sum(one.unless is not None for one in checks)),
        time=f"{seconds:.3f}",
    )
    for one in checks:
        _add_case(suite, name, seconds, one)
    ElementTree.SubElement(suite, "system-out").text = report
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    try:
        ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise ZbufError(f"--junit {path}: {error.strerror}: name another file") from None


def _add_case(suite: ElementTree.Element, name: str, seconds: float, one: Check) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=name, name=f"{one.name}: {one.must}")
    case.set("time", f"{seconds:.3f}")
    if one.failed:
        message = printable(str(one.problem))  # XML has no control characters
        ElementTree.SubElement(case, "failure", message=message, type=one.name).text = message
    elif one.unless is not None:
        told = "" if one.problem is None else f"; {printable(one.problem)}"
        ElementTree.SubElement(case, "skipped", message=f"{one.unless} was not given{told}")
