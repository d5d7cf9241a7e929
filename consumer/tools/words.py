"""How the tools write a duration and a process for people."""

from pathlib import Path


def duration(seconds: float) -> str:
    """As long as something has run, as ps(1) writes it."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}-" if days else "") + f"{hours:02d}:{minutes:02d}:{rest:02d}"


def process_name(pid: int) -> str:
    """What a process is called, where that can be read."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="backslashreplace").rstrip("\n")
    except OSError:
        return "-"
