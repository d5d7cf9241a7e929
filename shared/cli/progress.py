"""How far long work has come, on a terminal; nothing where stderr is none."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_REFRESH_S = 0.2


class Progress:
    """A line on the terminal that is rewritten until the end of the `with` block.

    Args:
        describe: called for its text, in a thread of its own.
        shown: False for nothing at all.
    """

    def __init__(self, describe: Callable[[], str], *, shown: bool = True) -> None:
        self._describe = describe
        self._shown = shown and sys.stderr.isatty()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, name="zbuf-progress", daemon=True)

    def __enter__(self) -> Self:
        if self._shown:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._shown:
            self._thread.join()

    def _show(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
            while not self._over.wait(_REFRESH_S):
                live.update(Text(self._describe()), refresh=True)
