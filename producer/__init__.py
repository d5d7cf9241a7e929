"""The producer side: packets in, shared buffers out."""
