"""How fast zbuf is beside its peers: ``python -m bench`` from the top of the repository. It is never installed."""
