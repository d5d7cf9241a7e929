# What the filters of one user's descriptors may take of the pump's time; see filter_share.pyx.

from libc.stdint cimport int64_t, uint64_t

from zbuf.shared.memory.spin cimport now_ns, thread_ns

cdef enum:
    SAVED_NS = 100_000_000      # of time that was not used, for bursts of packets


cdef class IdleTime:
    cdef int64_t ns


cdef class FilterShare:
    cdef IdleTime idle
    cdef readonly double share
    cdef readonly uint64_t passed_over
    """Packets that were dropped before they were filtered, since the share was used up."""
    cdef int64_t left_ns
    cdef int64_t wall_ns        # when it last earned, and the pump's own time then
    cdef int64_t own_ns

    cdef inline bint pay(self, int64_t cost_ns) noexcept nogil:
        """Take a cost from what is left; False, and nothing is taken, where nothing is."""
        if self.left_ns <= 0:
            self.earn()
        if self.left_ns <= 0:
            return False
        self.left_ns -= cost_ns
        return True

    cdef inline void earn(self) noexcept nogil:
        """Add its part of the pump's own time: when it worked or had nothing to do, not when others had the processor.

        Where another thread runs the pump by now, the clocks differ, and no more counts than the time that passed.
        """
        cdef int64_t wall_ns = now_ns(), own_ns = thread_ns() + self.idle.ns
        cdef int64_t passed_ns = min(wall_ns - self.wall_ns, max(<int64_t>0, own_ns - self.own_ns))
        self.left_ns = min(<int64_t>SAVED_NS, self.left_ns + <int64_t>(passed_ns * self.share))
        self.wall_ns, self.own_ns = wall_ns, own_ns
