"""zbuf: zero-copy BPF in userland, a multiprocess shared-memory capture service.

:mod:`zbuf.producer` takes packets in and appends them to shared buffers, :mod:`zbuf.consumer` reads them in
other processes, :mod:`zbuf.shared` is what both agree on.
"""

from importlib.metadata import version

__version__ = version("zbuf")
