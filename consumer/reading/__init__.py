"""Reading: buffers and packets in place, with and without asyncio, across restarts of the producer."""
