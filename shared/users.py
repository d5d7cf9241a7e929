"""Users by name."""

import functools
import pwd


@functools.cache
def user_name(uid: int) -> str:
    """A user's name, or its number if it has no name here; asked once, since a directory server may have to answer."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)
