"""Where the project's files are, and those that it may have beside it."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
CORPUS = ROOT.parent / "shared" / "corpus"
"""Captures of others, on machines that have them."""
