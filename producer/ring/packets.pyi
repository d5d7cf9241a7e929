"""A packet that a Python program hands in: its arguments are checked here, and become a struct zbuf_packet."""

DIRECTIONS: dict[str, int]

def direction_number(direction: str) -> int: ...
