"""zbuf top: what all captures do, second by second."""
