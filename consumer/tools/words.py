"""What several tools tell people in the same words: a duration, and how a reader came to its end."""

import typer

from zbuf.shared.control.rundir import search_path
from zbuf.shared.control.rundir_look import open_names
from zbuf.shared.errors import ProducerNotFound, ZbufError


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


def named_or_only(name: str | None, run_dir: str | None) -> str:
    """The producer that a command is for: the one that is named, or else the only one that runs.

    Raises:
        ProducerNotFound: none was named, and none runs.
        typer.BadParameter: none was named, and several run.
    """
    if name is not None:
        return name
    names = open_names(run_dir)
    if not names:
        where = " or ".join(map(str, search_path(run_dir)))
        raise ProducerNotFound(f"no producer runs in {where}: start one with zbufd")
    if len(names) > 1:
        raise typer.BadParameter(f"several producers run: say which of {', '.join(names)}")
    return names[0]
