"""Whose turn it is with the two buffers: what one reader has acknowledged, and what its views still hold."""

from collections.abc import Sized
from typing import Any

from typing_extensions import Buffer as BytesLike

from zbuf.shared.memory.layout import Layout

class Turn:
    """One reader's side of two buffers: their headers, its ack page, and the views that are alive."""

    def __init__(
        self,
        segment: BytesLike,
        layout: Layout,
        ack_page: BytesLike,
        *,
        interfaces: Sized | None = None,
        **_others: Any,
    ) -> None: ...
    def _views_gone(self) -> None: ...
    def _disown(self) -> None: ...
