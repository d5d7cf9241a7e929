"""What producer and consumers agree on: the ABI, the segment, pcapng, control messages, errors."""
