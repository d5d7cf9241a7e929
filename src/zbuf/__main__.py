"""The command zbuf, also as ``python -m zbuf``."""

import os

# Before NumPy comes: zbuf has no use for its BLAS, which keeps each processor busy for a tenth of a second.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from zbuf.consumer.cli import main

if __name__ == "__main__":
    main()
