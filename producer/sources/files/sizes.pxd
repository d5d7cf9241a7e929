# How large packets are on the wire: counts by the classes of the RMON etherStats (RFC 2819), and one of larger ones.

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SIZE_CLASSES = 7                # up to 64, 127, 255, 511, 1023, 1518 bytes, and more

cdef struct size_counts:
    uint64_t classes[SIZE_CLASSES]
    uint64_t wire_bytes


cdef extern from "zbuf/producer/sources/files/sizes.h" nogil:
    int size_class(uint32_t wirelen)


cdef inline void note_size(size_counts *counts, uint32_t wirelen) noexcept nogil:
    counts.classes[size_class(wirelen)] += 1
    counts.wire_bytes += wirelen
