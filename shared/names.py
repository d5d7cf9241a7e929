"""Names: which ones producers and groups of readers may have, and how names that others chose are shown."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from zbuf.shared.errors import ValueRefused

NAME_LENGTH_MAX = 48
NAME_PATTERN = r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]*"
"""A regular expression for the characters of a name; it says nothing of the length."""

Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME_PATTERN}\Z", max_length=NAME_LENGTH_MAX)]
"""A producer's name, or a group's, in a message."""

_NAME = re.compile(NAME_PATTERN)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.@:+-]")


def check_name(name: str, what: str = "producer name") -> str:
    """Return `name` where it can name a producer or a group of readers, else raise ValueRefused."""
    if len(name) > NAME_LENGTH_MAX:
        raise ValueRefused(f"{what} {name[:60]!r} has {len(name)} characters: use at most {NAME_LENGTH_MAX}")
    if not _NAME.fullmatch(name):
        raise ValueRefused(
            f"{what} {name!r} can't be used: take letters, digits and any of _ . @ : + - "
            "and begin with a letter, a digit or _"
        )
    return name


def fit_name(text: str) -> str:
    """The name that comes closest to `text`: other characters become _, and a long text is cut; "capture" if none."""
    return _NOT_IN_NAMES.sub("_", text).lstrip(".@:+-")[:NAME_LENGTH_MAX] or "capture"


def name_from_path(path: str) -> str:
    """The default name of a capture that replays `path`: the file's stem, as fit_name() makes it a name."""
    return fit_name(Path(path).name.removesuffix(".gz").rsplit(".", 1)[0] if path != "-" else "stdin")


def printable(text: str) -> str:
    """A text that somebody else made up, for a terminal: what it would obey or hide is written as Python writes it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def encodable(text: str) -> str:
    """A file's name as text that UTF-8 can encode: each byte that is not UTF-8 becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def linktypes_of(linktypes: Iterable[int]) -> str:
    """The link types of several interfaces, each once, as people read them."""
    return ", ".join(map(str, dict.fromkeys(linktypes)))


def process_name(pid: int) -> str:
    """What a process is called; "-" if that can't be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").rstrip("\n")
    except OSError:
        return "-"
