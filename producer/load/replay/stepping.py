"""Packets one at a time, at the word of somebody at a terminal."""

import sys
import threading

from zbuf.producer.sources.pace import Pace


def step(pace: Pace) -> None:
    """Ask for each packet, in another thread: Enter sends one, a number sends so many, q or end of file ends."""
    threading.Thread(target=_ask, args=(pace,), name="zbuf-step", daemon=True).start()


def _ask(pace: Pace) -> None:
    allowed = 0
    while True:
        sys.stderr.write(f"zbufd: packet {allowed + 1:,}: Enter sends it, a number sends so many, q ends: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        word = line.strip() or "1"
        if not line or word.lower() == "q":
            pace.end()
            return
        if not word.isdecimal() or not 0 < int(word) < 2**40:
            sys.stderr.write(f"zbufd: {word!r:.60} is not a number of packets: type 1 or more, or q\n")
            continue
        allowed += int(word)
        pace.allow(int(word))
