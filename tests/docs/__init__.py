"""Tests of the pages; a package, so that their conftest is not taken for the one above."""
