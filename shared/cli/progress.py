"""A line on the terminal that shows the progress of long work; nothing if standard error is not a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(describe: Callable[[], str], *, shown: bool = True) -> Iterator[None]:
    """Rewrite a line on the terminal until the end of the `with` block, which removes it.

    Args:
        describe: returns the text of the line; it is called in another thread.
        shown: False for no line at all.
    """
    if not (shown and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    with Live(console=console, get_renderable=lambda: Text(describe()), transient=True, refresh_per_second=5):
        yield
