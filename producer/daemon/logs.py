"""The daemon's log on standard error: lines for people on a terminal, lines of JSON elsewhere."""

import datetime
import json
import logging
import sys
from typing import Literal

LogFormat = Literal["auto", "text", "json"]


class JsonLines(logging.Formatter):
    """One JSON object for each record: time (RFC 3339), level, message, and the call's extra={"data": ...}."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as one line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        line |= getattr(record, "data", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(name: str, log_format: LogFormat, level: str) -> None:
    """Log to standard error from here on.

    Args:
        name: the program's name, with which each line for people begins.
        log_format: "auto" is text if standard error is a terminal, and JSON otherwise.
        level: the lowest level that is logged: debug, info, warning or error.
    """
    handler = logging.StreamHandler()
    is_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    handler.setFormatter(JsonLines() if is_json else logging.Formatter(f"{name}: %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    set_level(level)


def set_level(level: str) -> None:
    """Change the lowest level that is logged."""
    logging.getLogger().setLevel(level.upper())
