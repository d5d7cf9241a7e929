from libc.stdint cimport int64_t, uint64_t


cdef class Histogram:
    cdef int _bits
    cdef Py_ssize_t _buckets
    cdef uint64_t *_counts
    cdef readonly uint64_t total
    cdef readonly int64_t max

    cdef void count(self, int64_t value) noexcept nogil
    cdef Py_ssize_t bucket_of(self, int64_t value) noexcept nogil
    cdef int64_t highest_of(self, Py_ssize_t bucket) noexcept nogil
