"""Sizes of buffers as people write them: 8388608, "8M", "64 KiB"."""

import re

from zbuf.shared.errors import ValueRefused
from zbuf.shared.memory.layout import PAGE_BYTES, check_buffer_bytes

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"([0-9]+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)


def size_in_bytes(text: str) -> int | None:
    """The bytes of a size like 4096, 512k, 2M or 1GiB, whose units are powers of 1024; None if it is not a size."""
    match = _SIZE.fullmatch(text.strip())
    return None if match is None else int(match[1]) * _UNITS[match[2].lower()]


def buffer_bytes(size: int | str) -> int:
    """The bytes of a buffer that has room for `size`: whole pages.

    Args:
        size: bytes, or a number with k, M or G.

    Raises:
        ValueRefused: it is not a size, is zero or negative, or is more than 1 GiB.
    """
    found = size_in_bytes(size) if isinstance(size, str) else size
    if found is None:
        raise ValueRefused(f"buffer size {size!r:.60}: write bytes, or a number with k, M or G, such as '8M'")
    pages = found + -found % PAGE_BYTES
    check_buffer_bytes(pages)
    return pages
