# What goes along with packets from a file to the readers: their options, and other blocks between them.

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    CARRIED_BLOCK_BYTES = 1 << 20   # the longest block, packets excepted

cdef extern from "zbuf/producer/sources/files/carried.h" nogil:
    uint32_t carried_options(const uint8_t *options, uint32_t options_bytes)
    void put_carried_options(uint8_t *to, const uint8_t *options, uint32_t options_bytes)
