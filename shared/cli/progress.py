"""A line on the terminal that shows the progress of long work; nothing if standard error is not a terminal."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

_AFTER_S = 0.5
"""Work that ends sooner needs no line; and rich, which takes as long to import as a short dump, isn't imported."""


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
    ended = threading.Event()
    showing = threading.Thread(target=_show, args=(describe, ended), name="zbuf-progress", daemon=True)
    showing.start()
    try:
        yield
    finally:
        ended.set()
        showing.join()


def _show(describe: Callable[[], str], ended: threading.Event) -> None:
    if ended.wait(_AFTER_S):
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    with Live(console=console, get_renderable=lambda: Text(describe()), transient=True, refresh_per_second=5):
        ended.wait()
