"""The tools of the command zbuf."""
