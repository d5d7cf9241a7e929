"""Serving readers: who may touch descriptors, who is let in, and the control socket."""
