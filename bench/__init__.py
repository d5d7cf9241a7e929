"""How fast zbuf is, against its peers: ``python -m bench`` from the top of the repository. Never installed."""
