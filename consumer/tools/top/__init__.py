"""zbuf top: a live view of captures."""
