"""The capture daemon: zbufd capture as a service."""
