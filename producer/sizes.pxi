# How large packets are on the wire: counts by the classes of the RMON etherStats (RFC 2819), and one of larger ones.

cdef enum:
    SIZE_CLASSES = 7                # up to 64, 127, 255, 511, 1023, 1518 bytes, and more

cdef struct size_counts:
    uint64_t classes[SIZE_CLASSES]
    uint64_t wire_bytes


cdef extern from *:
    """
    static inline int size_class(uint32_t wirelen) {
        return wirelen <= 64 ? 0 : wirelen > 1518 ? 6 : 32 - __builtin_clz(wirelen) - 6;
    }
    """
    int size_class(uint32_t wirelen) nogil


cdef inline void note_size(size_counts *counts, uint32_t wirelen) noexcept nogil:
    counts.classes[size_class(wirelen)] += 1
    counts.wire_bytes += wirelen
