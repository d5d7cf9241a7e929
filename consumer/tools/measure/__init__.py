"""zbuf measure: how long packets take to a reader."""
