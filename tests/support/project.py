"""Where the project's files are, and captures that may be beside it."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
CORPUS = ROOT.parent / "shared" / "corpus"
"""Captures that others have made; not every machine has them."""
