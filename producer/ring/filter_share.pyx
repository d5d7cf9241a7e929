"""What the filters of one user's descriptors may take of the pump's time.

A descriptor weighs its filter now and then, by the processor time that it takes, and pays for every packet what is more
than an ordinary filter costs.  Where nothing is left, it drops packets before it filters them, and counts them.  So
filters take so much of the time and no more, whatever they are, and whichever packets come.

Measuring is better than counting instructions, which take from one to many nanoseconds; and dropping is better than
taking a reader off, since it ends as soon as fewer packets come.
"""

cimport cython


@cython.final
cdef class IdleTime:
    """How long a pump's sources had nothing to give; the pump counts."""


@cython.final
cdef class FilterShare:
    """The account of one user; only the owner of the descriptors may use it.

    Args:
        idle: of the pump that feeds the descriptors.
    """

    def __cinit__(self, IdleTime idle not None):
        self.idle = idle
        self.left_ns = SAVED_NS

    def set(self, double share):
        """Change what it earns: a part of the pump's time, 0 to 1."""
        self.earn()
        self.share = share
