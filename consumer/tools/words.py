"""What several tools tell people in the same words: a duration, and how a reader came to its end."""

from zbuf.shared.errors import ZbufError


def duration(seconds: float) -> str:
    """How long something has run, as ps(1) writes it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


_BAD_ENDS: dict[str | None, str] = {
    "producer died": "died; everything that it had appended is here",
    "evicted": "took this reader off: it was too slow for others, or is not allowed any more",
    "moved": "went on in another segment: run this again to read what follows",
}


def check_end(name: str, reason: str | None) -> None:
    """Raise ZbufError where a reader's stream ended before its producer `name` said that it was over.

    Args:
        name: the producer's.
        reason: the reader's end_reason.
    """
    if reason in _BAD_ENDS:
        raise ZbufError(f"{name} {_BAD_ENDS[reason]}")
