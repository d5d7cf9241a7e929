"""Live interfaces as a source."""
