"""Plots as PNG files, or as SVG for a page, by matplotlib, which is imported only for one."""

import io
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from zbuf.shared.errors import ZbufError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_plot(path: str, option: str = "--plot") -> None:
    """See that a plot can be made and written there, which leaves no trace.

    Args:
        path: the file.
        option: what named it, for messages.

    Raises:
        ZbufError: it can't, and why.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # that it has looked for fonts is no news
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ZbufError(f"{option} needs matplotlib: pip install 'zbuf[plot]'") from None
    try:
        if os.path.exists(path) or not os.path.basename(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        else:
            tempfile.TemporaryFile(dir=Path(path).parent).close()
    except OSError as error:
        raise ZbufError(f"{option} {path}: {error.strerror}") from None


def new_figure() -> "Figure":
    """An empty figure of the usual size."""
    from matplotlib.figure import Figure

    return Figure(figsize=(10, 6), layout="constrained")


def svg(figure: "Figure") -> str:
    """A figure as an element of an HTML page; its text is text, so that it can be searched and read aloud."""
    from matplotlib import rc_context

    picture = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zbuf"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()[picture.getvalue().index("<svg") :]


def save_plot(figure: "Figure", path: str) -> None:
    """Write a figure to a PNG file.

    Raises:
        ZbufError: it can't be written.
    """
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ZbufError(f"--plot {path}: {error.strerror or error}") from None
