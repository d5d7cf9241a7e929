"""zbuf dump: packets to capture files, or a line for each."""
