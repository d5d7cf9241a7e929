"""Shared memory: its layout, segments, pcapng blocks, and what is left of them."""
