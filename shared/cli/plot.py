"""Plots as PNG files, or as SVG for a page. matplotlib is imported only when something is plotted."""

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
    """Check that a plot can be made and written to a file; nothing is left behind.

    Args:
        path: the file.
        option: the option that named the file, for messages.

    Raises:
        ZbufError: matplotlib is not there, or the file can't be written.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells that it has looked for fonts
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
    """A figure as an element of an HTML page; its text stays text, which can be searched and read aloud."""
    from matplotlib import rc_context

    picture = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zbuf"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()[picture.getvalue().index("<svg") :]


def save_plot(figure: "Figure", path: str) -> None:
    """Write a figure to a PNG file.

    Raises:
        ZbufError: the file can't be written.
    """
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise ZbufError(f"--plot {path}: {error.strerror or error}") from None
