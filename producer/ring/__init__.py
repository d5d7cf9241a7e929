"""The ring: descriptors, the pump that feeds them, and what they ask of a source."""
