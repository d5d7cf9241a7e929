"""A histogram of whole numbers in logarithmic buckets, as HdrHistogram has them (https://hdrhistogram.org).

Of each value the highest bits are kept, so that the width of a bucket is a fixed share of the values in it. To count a
value takes a few nanoseconds, the GIL is not needed, and the memory does not depend on how many values there are.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

cdef extern from *:
    int __builtin_clzll(unsigned long long value) nogil


@cython.final
cdef class Histogram:
    """Counts of values from 0 to 2**63 - 1; a value below 0 counts as 0.

    Args:
        bits: how many bits of a value are kept, from 2 to 16: a bucket is at most 2**(1 - bits) of its values wide.
            11 bits keep three significant digits, 6 bits keep 3 %.
    """

    # total: How many values were counted.
    # max: The largest of them, exact; 0 if there are none.

    def __cinit__(self, *, int bits=11):
        if not 2 <= bits <= 16:
            raise ValueError(f"{bits} bits of a value: give from 2 to 16")
        self._bits = bits
        self._buckets = (65 - bits) << (bits - 1)
        self._counts = <uint64_t *>calloc(self._buckets, sizeof(uint64_t))
        if self._counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._counts)

    cdef void count(self, int64_t value) noexcept nogil:
        self._counts[self.bucket_of(value)] += 1
        self.total += 1
        self.max = max(self.max, value)

    def add(self, const int64_t[:] values not None):
        """Count each of some values, such as those of a NumPy array."""
        cdef Py_ssize_t at
        with nogil:
            for at in range(values.shape[0]):
                self.count(values[at])

    def value_at(self, double share):
        """The value that this share of the values does not exceed.

        Args:
            share: from 0 to 1; 0.5 is the median.

        Returns:
            The highest value of the bucket in which it is, but at most the largest value; 0 if there are no values.
        """
        cdef uint64_t seen = 0
        cdef Py_ssize_t bucket
        for bucket in range(self._buckets):
            seen += self._counts[bucket]
            if seen and seen >= share * self.total:
                return min(self.highest_of(bucket), self.max)
        return self.max

    def buckets(self):
        """The buckets that are not empty, from the lowest: the highest value of each, and how many values it has."""
        return [(self.highest_of(at), self._counts[at]) for at in range(self._buckets) if self._counts[at]]

    cdef Py_ssize_t bucket_of(self, int64_t value) noexcept nogil:
        cdef int shift
        if value < 1 << self._bits:
            return <Py_ssize_t>max(value, <int64_t>0)
        shift = 64 - __builtin_clzll(<uint64_t>value) - self._bits
        return (<Py_ssize_t>shift << (self._bits - 1)) + <Py_ssize_t>(value >> shift)

    cdef int64_t highest_of(self, Py_ssize_t bucket) noexcept nogil:
        cdef Py_ssize_t shift = max(<Py_ssize_t>0, (bucket >> (self._bits - 1)) - 1)
        return <int64_t>(((<uint64_t>(bucket - (shift << (self._bits - 1))) + 1) << shift) - 1)
