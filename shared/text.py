"""Texts that come from outside, such as the names of files."""


def encodable(text: str) -> str:
    """A text with "?" for whatever can't be written as UTF-8: the name of a file may have bytes that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()
